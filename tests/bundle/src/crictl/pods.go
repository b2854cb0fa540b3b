package main

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1alpha2"
)

func showVersion(c *client, _ *options) error {
	ctx, cancel := c.context()
	defer cancel()
	answer, err := c.runtime.Version(ctx, &cri.VersionRequest{Version: "v1alpha2"})
	if err != nil {
		return fmt.Errorf("getting the runtime version: %v", err)
	}
	fmt.Printf("Version:  %s\nRuntimeName:  %s\nRuntimeVersion:  %s\nRuntimeApiVersion:  %s\n",
		answer.Version, answer.RuntimeName, answer.RuntimeVersion, answer.RuntimeApiVersion)
	return nil
}

func showInfo(c *client, flags *options) error {
	ctx, cancel := c.context()
	defer cancel()
	answer, err := c.runtime.Status(ctx, &cri.StatusRequest{Verbose: !flags.quiet})
	if err != nil {
		return fmt.Errorf("getting status of runtime: %v", err)
	}
	return printAs(orJSON(flags.output), withInfo(answer.Status, answer.Info))
}

// each calls one request for every ID on the command line and says which one was done.
func each(c *client, flags *options, done string, one func(ctx context.Context, id string) error) error {
	if len(flags.arguments) == 0 {
		return fmt.Errorf("which? give an ID")
	}
	for _, id := range flags.arguments {
		ctx, cancel := c.context()
		err := one(ctx, id)
		cancel()
		if err != nil {
			return fmt.Errorf("%s %q: %v", done, id, err)
		}
		if done != "" {
			fmt.Printf("%s %s\n", done, id)
		}
	}
	return nil
}

func labelMap(pairs []string) map[string]string {
	labels := map[string]string{}
	for _, pair := range pairs {
		parts := strings.SplitN(pair, "=", 2)
		if len(parts) == 2 {
			labels[parts[0]] = parts[1]
		}
	}
	return labels
}

func matches(pattern, text string) (bool, error) {
	if pattern == "" {
		return true, nil
	}
	return regexp.MatchString(pattern, text)
}

func listPods(c *client, flags *options) error {
	ctx, cancel := c.context()
	defer cancel()
	filter := &cri.PodSandboxFilter{LabelSelector: labelMap(flags.labels)}
	switch strings.ToLower(flags.state) {
	case "":
	case "ready":
		filter.State = &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}
	case "notready":
		filter.State = &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_NOTREADY}
	default:
		return fmt.Errorf("state %q is not known: ready or notready", flags.state)
	}
	answer, err := c.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: filter})
	if err != nil {
		return fmt.Errorf("listing pod sandboxes: %v", err)
	}
	kept := []*cri.PodSandbox{}
	for _, pod := range answer.Items {
		byName, err := matches(flags.name, pod.GetMetadata().GetName())
		if err != nil {
			return err
		}
		bySpace, err := matches(flags.namespace, pod.GetMetadata().GetNamespace())
		if err != nil {
			return err
		}
		if byName && bySpace {
			kept = append(kept, pod)
		}
	}
	if flags.output != "" && flags.output != "table" {
		return printAs(flags.output, message(&cri.ListPodSandboxResponse{Items: kept}))
	}
	if !flags.quiet {
		fmt.Printf("%-20s %-25s %-10s %-45s %-20s %s\n", "POD ID", "CREATED", "STATE", "NAME", "NAMESPACE", "ATTEMPT")
	}
	for _, pod := range kept {
		if flags.quiet {
			fmt.Println(pod.Id)
			continue
		}
		state := strings.TrimPrefix(pod.State.String(), "SANDBOX_")
		fmt.Printf("%-20s %-25s %-10s %-45s %-20s %d\n", short(pod.Id, flags), created(pod.CreatedAt), state,
			pod.GetMetadata().GetName(), pod.GetMetadata().GetNamespace(), pod.GetMetadata().GetAttempt())
	}
	return nil
}

func created(nanoseconds int64) string {
	return time.Unix(0, nanoseconds).UTC().Format(time.RFC3339)
}

func inspectPods(c *client, flags *options) error {
	return each(c, flags, "", func(ctx context.Context, id string) error {
		answer, err := c.runtime.PodSandboxStatus(ctx,
			&cri.PodSandboxStatusRequest{PodSandboxId: id, Verbose: !flags.quiet})
		if err != nil {
			return err
		}
		return printAs(orJSON(flags.output), withInfo(answer.Status, answer.Info))
	})
}

func stopPods(c *client, flags *options) error {
	return each(c, flags, "Stopped sandbox", func(ctx context.Context, id string) error {
		_, err := c.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id})
		return err
	})
}

func removePods(c *client, flags *options) error {
	if flags.all {
		ctx, cancel := c.context()
		defer cancel()
		answer, err := c.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
		if err != nil {
			return err
		}
		for _, pod := range answer.Items {
			flags.arguments = append(flags.arguments, pod.Id)
		}
		if len(flags.arguments) == 0 {
			return nil
		}
	}
	return each(c, flags, "Removed sandbox", func(ctx context.Context, id string) error {
		if flags.force {
			if _, err := c.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
				return err
			}
		}
		_, err := c.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id})
		return err
	})
}
