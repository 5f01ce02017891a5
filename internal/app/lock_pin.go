package app

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newLockPin(o *options) *cobra.Command {
	var move bool
	c := &cobra.Command{
		Use:   "pin COMPONENT",
		Short: "Ask registries once which images a component names by tag, and lock the answer",
		Long: `Some images are named by tag in component.yaml, because nobody has published their digest.
They are not used, and their component is skipped, until this verb has asked their
registry which image that is. The digest, the day, and what was seen of the image
(platforms, size, labels that say where it comes from) go into orrery.lock: look at them,
and commit it. From then on only that digest is pulled, whatever the tag names.

A tag that names another image than the lock has is refused; --move takes it.`,
		Example: `  orrery lock pin foundationdb
  orrery lock pin foundationdb --move   # after a look at what changed`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.completeComponents,
		RunE: func(c *cobra.Command, args []string) error {
			sink := o.renderer()
			defer sink.Close()
			s, err := o.request(sink).Unlocked()
			if err != nil {
				return err
			}
			if err := s.NeedsSource("lock pin"); err != nil {
				return err
			}
			l, err := lock.Load(s.LockFile())
			if errors.Is(err, fs.ErrNotExist) {
				err = fmt.Errorf("%w\n'orrery lock' writes it", err)
			}
			if err != nil {
				return failure.Usage{Err: err}
			}
			pins, err := s.Pin(c.Context(), args[0], &l, time.Now().UTC(), move)
			if err != nil {
				return err
			}
			data, err := l.Format()
			if err != nil {
				return err
			}
			before, err := os.ReadFile(s.LockFile())
			if err != nil {
				return fmt.Errorf("read the lock: %w", err)
			}
			written := !bytes.Equal(before, data)
			if written {
				if err := atomicfile.Write(s.LockFile(), data, 0o644); err != nil {
					return fmt.Errorf("write the lock: %w", err)
				}
			}
			sink.Close()
			if o.json() {
				return printJSON(o.out, pins)
			}
			for _, p := range pins {
				fmt.Fprintf(o.out, "%s\n  %s since %s, %s, %s\n", p.Reference, p.Pin.Digest, p.Pin.Seen, strings.Join(p.Pin.Platforms, " "), ui.Size(p.Pin.Bytes))
				for _, name := range slices.Sorted(maps.Keys(p.Pin.Labels)) {
					fmt.Fprintf(o.out, "  %s: %s\n", strings.TrimPrefix(name, "org.opencontainers.image."), p.Pin.Labels[name])
				}
			}
			switch {
			case len(pins) == 0:
				_, err = fmt.Fprintf(o.out, "component %s names no image by tag: there is nothing to ask for\n", args[0])
			case written:
				_, err = fmt.Fprintf(o.out, "%s written; look at it, and commit it\n", s.LockFile())
			default:
				_, err = fmt.Fprintln(o.out, "the tags name what the lock has; nothing changed")
			}
			return err
		},
	}
	c.Flags().BoolVar(&move, "move", false, "take what a tag names now, although the lock has another digest")
	return c
}
