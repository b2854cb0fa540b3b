package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1alpha2"
)

var containerStates = map[string]cri.ContainerState{
	"created": cri.ContainerState_CONTAINER_CREATED,
	"running": cri.ContainerState_CONTAINER_RUNNING,
	"exited":  cri.ContainerState_CONTAINER_EXITED,
	"unknown": cri.ContainerState_CONTAINER_UNKNOWN,
}

func listContainers(c *client, flags *options) error {
	ctx, cancel := c.context()
	defer cancel()
	filter := &cri.ContainerFilter{PodSandboxId: flags.pod, LabelSelector: labelMap(flags.labels)}
	if flags.state == "" && !flags.all {
		flags.state = "running"
	}
	if flags.state != "" {
		state, known := containerStates[strings.ToLower(flags.state)]
		if !known {
			return fmt.Errorf("state %q is not known: created, running, exited or unknown", flags.state)
		}
		filter.State = &cri.ContainerStateValue{State: state}
	}
	answer, err := c.runtime.ListContainers(ctx, &cri.ListContainersRequest{Filter: filter})
	if err != nil {
		return fmt.Errorf("listing containers: %v", err)
	}
	kept := []*cri.Container{}
	for _, one := range answer.Containers {
		named, err := matches(flags.name, one.GetMetadata().GetName())
		if err != nil {
			return err
		}
		if named {
			kept = append(kept, one)
		}
	}
	if flags.output != "" && flags.output != "table" {
		return printAs(flags.output, message(&cri.ListContainersResponse{Containers: kept}))
	}
	if !flags.quiet {
		fmt.Printf("%-20s %-25s %-10s %-28s %-8s %s\n", "CONTAINER", "CREATED", "STATE", "NAME", "ATTEMPT", "POD ID")
	}
	for _, one := range kept {
		if flags.quiet {
			fmt.Println(one.Id)
			continue
		}
		state := strings.TrimPrefix(one.State.String(), "CONTAINER_")
		fmt.Printf("%-20s %-25s %-10s %-28s %-8d %s\n", short(one.Id, flags), created(one.CreatedAt), state,
			one.GetMetadata().GetName(), one.GetMetadata().GetAttempt(), short(one.PodSandboxId, flags))
	}
	return nil
}

func inspectContainers(c *client, flags *options) error {
	return each(c, flags, "", func(ctx context.Context, id string) error {
		answer, err := c.runtime.ContainerStatus(ctx,
			&cri.ContainerStatusRequest{ContainerId: id, Verbose: !flags.quiet})
		if err != nil {
			return err
		}
		return printAs(orJSON(flags.output), withInfo(answer.Status, answer.Info))
	})
}

func stopContainers(c *client, flags *options) error {
	return each(c, flags, "Stopped", func(ctx context.Context, id string) error {
		_, err := c.runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: flags.wait})
		return err
	})
}

func removeContainers(c *client, flags *options) error {
	return each(c, flags, "Removed", func(ctx context.Context, id string) error {
		if flags.force {
			if _, err := c.runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id}); err != nil {
				return err
			}
		}
		_, err := c.runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id})
		return err
	})
}

// showLogs prints the container's log file without the CRI prefix "time stream tag ".
func showLogs(c *client, flags *options) error {
	return each(c, flags, "", func(ctx context.Context, id string) error {
		answer, err := c.runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			return err
		}
		file, err := os.Open(answer.Status.LogPath)
		if err != nil {
			return err
		}
		defer file.Close()
		lines := []string{}
		scanner := bufio.NewScanner(file)
		scanner.Buffer(make([]byte, 64<<10), 4<<20)
		for scanner.Scan() {
			parts := strings.SplitN(scanner.Text(), " ", 4)
			lines = append(lines, parts[len(parts)-1])
			if flags.tail >= 0 && len(lines) > flags.tail {
				lines = lines[1:]
			}
		}
		for _, line := range lines {
			fmt.Println(line)
		}
		return scanner.Err()
	})
}

func execInContainer(c *client, flags *options) error {
	if len(flags.arguments) < 2 {
		return errors.New("give a container and a command")
	}
	ctx, cancel := c.context()
	defer cancel()
	answer, err := c.runtime.ExecSync(ctx, &cri.ExecSyncRequest{
		ContainerId: flags.arguments[0], Cmd: flags.arguments[1:], Timeout: flags.wait,
	})
	if err != nil {
		return err
	}
	_, _ = os.Stdout.Write(answer.Stdout)
	_, _ = os.Stderr.Write(answer.Stderr)
	if answer.ExitCode != 0 {
		os.Exit(int(answer.ExitCode))
	}
	return nil
}
