// Command crictl is a small program with the interface of cri-tools' crictl, as far as kubeadm and
// operators of test clusters call it: Debian has no package of the real one. It speaks CRI v1alpha2.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1alpha2"
	"sigs.k8s.io/yaml"
)

const defaultEndpoint = "unix:///run/containerd/containerd.sock"

// version is set at link time.
var version = "unknown"

type settings struct {
	RuntimeEndpoint string `json:"runtime-endpoint"`
	ImageEndpoint   string `json:"image-endpoint"`
	Timeout         int    `json:"timeout"`
	Debug           bool   `json:"debug"`
}

type client struct {
	runtime cri.RuntimeServiceClient
	images  cri.ImageServiceClient
	timeout time.Duration
}

type command struct {
	run   func(c *client, flags *options) error
	about string
}

type options struct {
	arguments                               []string
	output, name, namespace, pod, state     string
	labels                                  []string
	quiet, all, force, sync, prune, noTrunc bool
	tail                                    int
	wait                                    int64
}

var commands = map[string]command{
	"version":  {showVersion, "show the runtime's version"},
	"info":     {showInfo, "show the runtime's status"},
	"pull":     {pull, "pull images"},
	"images":   {listImages, "list images"},
	"inspecti": {inspectImages, "show images"},
	"rmi":      {removeImages, "remove images"},
	"pods":     {listPods, "list pods"},
	"inspectp": {inspectPods, "show pods"},
	"stopp":    {stopPods, "stop pods"},
	"rmp":      {removePods, "remove pods"},
	"ps":       {listContainers, "list containers"},
	"inspect":  {inspectContainers, "show containers"},
	"stop":     {stopContainers, "stop containers"},
	"rm":       {removeContainers, "remove containers"},
	"logs":     {showLogs, "show a container's log"},
	"exec":     {execInContainer, "run a command in a container"},
}

var aliases = map[string]string{"image": "images", "img": "images", "p": "pods", "status": "info"}

func (c *client) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), c.timeout)
}

func readSettings(path string) (settings, error) {
	kept := settings{Timeout: 2}
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return kept, nil
	}
	if err != nil {
		return kept, err
	}
	if err := yaml.Unmarshal(text, &kept); err != nil {
		return kept, fmt.Errorf("%s: %v", path, err)
	}
	return kept, nil
}

func dial(endpoint string, timeout time.Duration) (*grpc.ClientConn, error) {
	path := strings.TrimPrefix(endpoint, "unix://")
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	connect := func(ctx context.Context, address string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", address)
	}
	connection, err := grpc.DialContext(ctx, path, grpc.WithInsecure(), grpc.WithBlock(),
		grpc.WithContextDialer(connect), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		return nil, fmt.Errorf("connect endpoint %q, make sure you are running as root and the endpoint "+
			"has been started: %v", endpoint, err)
	}
	return connection, nil
}

func fail(err error) {
	fmt.Fprintf(os.Stderr, "FATA[0000] %v\n", err)
	os.Exit(1)
}

func usage() {
	fmt.Println("NAME:\n   crictl - client for CRI\n\nCOMMANDS:")
	for name, one := range commands {
		fmt.Printf("   %-10s %s\n", name, one.about)
	}
}

func main() {
	global := pflag.NewFlagSet("crictl", pflag.ContinueOnError)
	global.SetInterspersed(false)
	config := global.StringP("config", "c", "/etc/crictl.yaml", "client configuration")
	runtime := global.StringP("runtime-endpoint", "r", os.Getenv("CONTAINER_RUNTIME_ENDPOINT"), "runtime socket")
	image := global.StringP("image-endpoint", "i", os.Getenv("IMAGE_SERVICE_ENDPOINT"), "image socket")
	timeout := global.StringP("timeout", "t", "", "timeout of connecting, in seconds or as 10s")
	_ = global.BoolP("debug", "D", false, "accepted, says nothing more")
	showOwn := global.BoolP("version", "v", false, "show crictl's version")
	if err := global.Parse(os.Args[1:]); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			os.Exit(0)
		}
		fail(err)
	}
	if *showOwn {
		fmt.Println("crictl version " + version)
		return
	}
	if global.NArg() == 0 || global.Arg(0) == "help" {
		usage()
		return
	}
	name := global.Arg(0)
	if other, ok := aliases[name]; ok {
		name = other
	}
	chosen, known := commands[name]
	if !known {
		fail(fmt.Errorf("command %q is not known", name))
	}
	flags, err := parseOptions(name, global.Args()[1:])
	if err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			os.Exit(0)
		}
		fail(err)
	}
	connected, err := connect(*config, *runtime, *image, *timeout)
	if err != nil {
		fail(err)
	}
	if err := chosen.run(connected, flags); err != nil {
		fail(err)
	}
}

func parseOptions(name string, arguments []string) (*options, error) {
	flags := &options{}
	set := pflag.NewFlagSet(name, pflag.ContinueOnError)
	set.SetInterspersed(name != "exec") // what follows the container belongs to the command
	set.StringVarP(&flags.output, "output", "o", "", "json, yaml or table")
	set.BoolVarP(&flags.quiet, "quiet", "q", false, "only IDs")
	set.BoolVarP(&flags.all, "all", "a", false, "all, not only running ones")
	set.BoolVarP(&flags.force, "force", "f", false, "stop first (logs: accepted)")
	set.BoolVar(&flags.noTrunc, "no-trunc", false, "whole IDs")
	set.StringVar(&flags.name, "name", "", "filter by name")
	set.StringVar(&flags.namespace, "namespace", "", "filter by namespace")
	set.StringVarP(&flags.pod, "pod", "p", "", "filter by pod ID")
	set.StringVar(&flags.state, "state", "", "filter by state")
	set.StringSliceVar(&flags.labels, "label", nil, "filter by label key=value")
	set.IntVar(&flags.tail, "tail", -1, "last lines of the log")
	set.BoolVar(&flags.prune, "prune", false, "remove all unused images")
	switch name {
	case "exec":
		set.BoolVarP(&flags.sync, "sync", "s", false, "accepted: always synchronous")
		set.Int64Var(&flags.wait, "timeout", 0, "seconds")
	case "stop":
		set.Int64VarP(&flags.wait, "timeout", "t", 0, "seconds before it is killed")
	}
	err := set.Parse(arguments)
	flags.arguments = set.Args()
	return flags, err
}

func connect(config, runtime, image, timeout string) (*client, error) {
	kept, err := readSettings(config)
	if err != nil {
		return nil, err
	}
	if runtime == "" {
		runtime = kept.RuntimeEndpoint
	}
	if runtime == "" {
		runtime = defaultEndpoint
	}
	if image == "" {
		image = kept.ImageEndpoint
	}
	limit := time.Duration(kept.Timeout) * time.Second
	if timeout != "" {
		if limit, err = time.ParseDuration(timeout); err != nil {
			if limit, err = time.ParseDuration(timeout + "s"); err != nil {
				return nil, fmt.Errorf("timeout %q is not a duration", timeout)
			}
		}
	}
	if limit <= 0 {
		limit = 2 * time.Second
	}
	first, err := dial(runtime, limit)
	if err != nil {
		return nil, err
	}
	second := first
	if image != "" && image != runtime {
		if second, err = dial(image, limit); err != nil {
			return nil, err
		}
	}
	// The limit is for connecting and quick answers; pulls and removals take what they take.
	return &client{cri.NewRuntimeServiceClient(first), cri.NewImageServiceClient(second), 5 * time.Minute}, nil
}
