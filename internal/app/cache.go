package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/supply"
)

func newCache(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "cache",
		Short: "What was compiled here, for machines that need not compile it again: push",
	}
	c.AddCommand(newCachePush(o))
	return c
}

func newCachePush(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "push [REGISTRY]",
		Short: "Send what is compiled to a registry, from which other machines take it by the lock's digests",
		Long: `Send programs and archives that are on this machine, as orrery.lock has them, to REGISTRY
(HOST[:PORT]/PATH; default: images.registry of orrery.yaml), with the bills of materials of
them and of the images. What is there already is not sent again.

A machine whose images.registry names the same, and whose images.sources has registry before
source (the default), fetches them in 'orrery up' instead of compiling. Images are put together
from them there, to the same digests. The registry needs no trust: all that comes is held to the
digests of orrery.lock before it is used. What is damaged, or was changed, is refused; with
images.verify: warn it is named, and compiled. What cannot be had is compiled.

Credentials are those of docker login and podman login; images.caBundle is trusted. A registry on
this machine may speak plain HTTP.`,
		Example: `  orrery up && orrery cache push registry.example.com/platform
  orrery cache push 127.0.0.1:5000/orrery -o json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return pushCache(c.Context(), o, strings.Join(args, ""))
		},
	}
}

// cachePushed is one entry of `cache push -o json`; its form is a contract.
type cachePushed struct {
	Name      string `json:"name"`
	Reference string `json:"reference"`
	Sent      bool   `json:"sent"` // false: the registry had it
	Error     string `json:"error,omitempty"`
}

func pushCache(ctx context.Context, o *options, registry string) error {
	sink := o.renderer()
	defer sink.Close()
	request := o.request(sink)
	request.Registry = registry
	s, err := request.Supply()
	if err != nil {
		return err
	}
	rows := []cachePushed{}
	var mu sync.Mutex
	err = stepOf(sink, "cache/push", func() error {
		return s.PublishPrograms(ctx, func(p supply.Published) {
			mu.Lock()
			defer mu.Unlock()
			row := cachePushed{Name: p.Name, Reference: p.Reference, Sent: p.Sent}
			if p.Error != nil {
				row.Error = p.Error.Error()
			}
			rows = append(rows, row)
		})
	})
	sink.Close()
	slices.SortFunc(rows, func(a, b cachePushed) int { return strings.Compare(a.Name, b.Name) })
	if o.json() {
		return errors.Join(printJSON(o.out, rows), err)
	}
	sent := 0
	for _, r := range rows {
		if r.Error == "" {
			fmt.Fprintf(o.out, "%s  %s\n", r.Reference, r.Name)
		}
		if r.Sent {
			sent++
		}
	}
	if err == nil {
		fmt.Fprintf(o.out, "%d files: %d sent, %d were there\n", len(rows), sent, len(rows)-sent)
	}
	return err
}
