// Command echo is the demo workload: it says over HTTP which pod on which node answered.
//
// POD_NAME and NODE_NAME come from the environment (downward API); nothing else of it is shown. As "echo install
// SOURCE TARGET" it copies a file and then waits to be ended: what the manifest of a pod network does on every node.
//
// With LINGER_S it answers for so many seconds after it was told to end, as a server must for which nobody's request is
// to fail: Services send requests to it until each node's kube-proxy has heard that it goes.
package main

import (
	"encoding/json"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func install(source, target string) error {
	body, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	// beside it, then renamed: the runtime must never read half a file
	partial := target + ".partial"
	if err := os.WriteFile(partial, body, 0o644); err != nil {
		return err
	}
	return os.Rename(partial, target)
}

func main() {
	if len(os.Args) == 4 && os.Args[1] == "install" {
		if err := install(os.Args[2], os.Args[3]); err != nil {
			log.Fatalf("echo: install: %v", err)
		}
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
		<-stop
		return
	}
	linger := 0
	if told := os.Getenv("LINGER_S"); told != "" {
		parsed, err := strconv.Atoi(told)
		if err != nil {
			log.Fatalf("echo: LINGER_S: %v", err)
		}
		linger = parsed
	}
	hostname, err := os.Hostname()
	if err != nil {
		log.Fatalf("echo: host name: %v", err)
	}
	answer := map[string]string{
		"hostname": hostname,
		"pod":      os.Getenv("POD_NAME"),
		"node":     os.Getenv("NODE_NAME"),
	}
	body, err := json.Marshal(answer)
	if err != nil {
		log.Fatalf("echo: answer: %v", err)
	}
	body = append(body, '\n')

	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Connection", "close") // the next request may reach another pod
		_, _ = w.Write(body)
	})

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-stop
		time.Sleep(time.Duration(linger) * time.Second)
		os.Exit(0)
	}()
	server := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	log.Fatal(server.ListenAndServe())
}
