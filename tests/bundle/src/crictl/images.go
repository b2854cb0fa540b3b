package main

import (
	"errors"
	"fmt"
	"strings"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1alpha2"
)

func pull(c *client, flags *options) error {
	if len(flags.arguments) == 0 {
		return errors.New("which image? give its name")
	}
	for _, name := range flags.arguments {
		ctx, cancel := c.context()
		answer, err := c.images.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: name}})
		cancel()
		if err != nil {
			return fmt.Errorf("pulling image: %v", err)
		}
		fmt.Println("Image is up to date for " + answer.ImageRef)
	}
	return nil
}

func listImages(c *client, flags *options) error {
	ctx, cancel := c.context()
	defer cancel()
	filter := &cri.ImageFilter{}
	if len(flags.arguments) > 0 {
		filter.Image = &cri.ImageSpec{Image: flags.arguments[0]}
	}
	answer, err := c.images.ListImages(ctx, &cri.ListImagesRequest{Filter: filter})
	if err != nil {
		return fmt.Errorf("listing images: %v", err)
	}
	if flags.output != "" && flags.output != "table" {
		return printAs(flags.output, message(answer))
	}
	if !flags.quiet {
		fmt.Printf("%-60s %-15s %s\n", "IMAGE", "IMAGE ID", "SIZE")
	}
	for _, one := range answer.Images {
		if flags.quiet {
			fmt.Println(one.Id)
			continue
		}
		names := one.RepoTags
		if len(names) == 0 {
			names = []string{"<none>"}
		}
		for _, name := range names {
			fmt.Printf("%-60s %-15s %d\n", name, short(strings.TrimPrefix(one.Id, "sha256:"), flags), one.Size_)
		}
	}
	return nil
}

func inspectImages(c *client, flags *options) error {
	if len(flags.arguments) == 0 {
		return errors.New("which image? give its name or ID")
	}
	for _, name := range flags.arguments {
		ctx, cancel := c.context()
		answer, err := c.images.ImageStatus(ctx,
			&cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}, Verbose: !flags.quiet})
		cancel()
		if err != nil {
			return fmt.Errorf("image status for %q request: %v", name, err)
		}
		if answer.Image == nil {
			return fmt.Errorf("no such image %q present", name)
		}
		if err := printAs(orJSON(flags.output), withInfo(answer.Image, answer.Info)); err != nil {
			return err
		}
	}
	return nil
}

func removeImages(c *client, flags *options) error {
	if flags.prune || flags.all {
		return errors.New("rmi removes only the images that are named")
	}
	for _, name := range flags.arguments {
		ctx, cancel := c.context()
		_, err := c.images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: name}})
		cancel()
		if err != nil {
			return fmt.Errorf("removing image %q: %v", name, err)
		}
		fmt.Println("Deleted: " + name)
	}
	return nil
}

func orJSON(format string) string {
	if format == "" {
		return "json"
	}
	return format
}

func short(id string, flags *options) string {
	if flags.noTrunc || len(id) <= 13 {
		return id
	}
	return id[:13]
}
