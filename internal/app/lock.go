package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/supply"
)

func newLock(o *options) *cobra.Command {
	var checkOnly bool
	var target supply.LockTarget
	c := &cobra.Command{
		Use:   "lock",
		Short: "Write orrery.lock: the digest of every binary and image, and what it is made from",
		Long: `Build every binary and image of the catalogue that is not built yet, and write their
digests and inputs to orrery.lock, which belongs into the commit. 'orrery up' and
'orrery deploy' refuse whatever is not as locked.

With --check nothing is built or written: exit status 1 when the catalogue, or what is
built of it here, is not as locked.

With --platform everything is compiled for another processor, and its part of the lock is
written. What cannot be, because it has C in it, is noted there as omitted; so is what
changed since, until this is run again.`,
		Example: `  orrery lock            # after a version, a flag or a source file was changed
  orrery lock --check    # in CI
  orrery lock --only pulse        # the one that was changed: nothing else has to be built here
  orrery lock --platform linux/arm64 --only nats-server,coredns`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if checkOnly {
				return checkLock(c.Context(), o)
			}
			return writeLock(c.Context(), o, target)
		},
	}
	f := c.Flags()
	f.BoolVar(&checkOnly, "check", false, "compare, build and write nothing")
	f.StringVar(&target.Platform, "platform", "", "lock for another platform, such as linux/arm64 (default: this machine's)")
	f.StringSliceVar(&target.Only, "only", nil, "build only these binaries and images; the rest stays as it is locked")
	c.MarkFlagsMutuallyExclusive("check", "platform")
	c.AddCommand(newLockPin(o), newLockUpdate(o))
	return c
}

// lockReport is what `lock -o json` prints; its form is a contract.
type lockReport struct {
	File    string       `json:"file"`
	Drift   []lock.Drift `json:"drift"` // against the lock as it was
	Notes   []string     `json:"notes"`
	Entries int          `json:"entries"`
	// NotBuilt are entries of which only the inputs were compared.
	NotBuilt []string `json:"notBuilt"`
	Written  bool     `json:"written"`
}

// newLockReport compares; all: have is the whole catalogue.
func newLockReport(file string, locked, have lock.Platform, all bool) lockReport {
	r := lockReport{File: file, Drift: []lock.Drift{}, Notes: []string{}, NotBuilt: []string{}, Entries: len(have.Binaries) + len(have.Images)}
	drift, notes := lock.Check(locked, have, all)
	r.Drift, r.Notes = append(r.Drift, drift...), append(r.Notes, notes...)
	for name, b := range have.Binaries {
		if b.SHA256 == "" {
			r.NotBuilt = append(r.NotBuilt, "binary "+name)
		}
	}
	for name, i := range have.Images {
		if i.Digest == "" {
			r.NotBuilt = append(r.NotBuilt, "image "+name)
		}
	}
	slices.Sort(r.NotBuilt)
	return r
}

func checkLock(ctx context.Context, o *options) error {
	sink := o.renderer()
	defer sink.Close()
	s, err := o.request(sink).Unlocked()
	if err != nil {
		return err
	}
	if err := s.NeedsSource("lock"); err != nil {
		return err
	}
	l, err := lock.Load(s.LockFile())
	if errors.Is(err, fs.ErrNotExist) {
		return failure.Usage{Err: fmt.Errorf("%w\n'orrery lock' writes it", err)}
	}
	if err != nil {
		return failure.Usage{Err: err}
	}
	locked, ok := l.Platforms[build.Platform()]
	if !ok {
		return fmt.Errorf("%s has nothing for %s: 'orrery lock' on such a machine adds it", s.LockFile(), build.Platform())
	}
	have, elsewhere, err := s.CompareLock(ctx, l)
	if err != nil {
		return err
	}
	r := newLockReport(s.LockFile(), locked, have, true)
	r.Drift = append(r.Drift, elsewhere...)
	sink.Close()
	if o.json() {
		err = printJSON(o.out, r)
	} else {
		if len(r.Drift) > 0 {
			fmt.Fprintln(o.out, lock.Explain(r.Drift))
		}
		for _, n := range r.Notes {
			fmt.Fprintln(o.out, "note: "+n)
		}
		if len(r.NotBuilt) > 0 {
			fmt.Fprintf(o.out, "not built here, so only their inputs were compared: %d of %d\n", len(r.NotBuilt), r.Entries)
		}
		if len(r.Drift) == 0 {
			_, err = fmt.Fprintf(o.out, "%s: %d entries are as locked\n", r.File, r.Entries-len(r.Notes))
		}
	}
	if err == nil && len(r.Drift) > 0 {
		return exitError(exitFailed)
	}
	return err
}

func writeLock(ctx context.Context, o *options, target supply.LockTarget) error {
	sink := o.renderer()
	defer sink.Close()
	s, err := o.request(sink).Unlocked()
	if err != nil {
		return err
	}
	if err := s.NeedsSource("lock"); err != nil {
		return err
	}
	old, err := lock.Load(s.LockFile())
	if errors.Is(err, lock.ErrVersion) {
		return failure.Usage{Err: err}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		// It is about to be replaced, but only its entries for this platform are ours to make.
		fmt.Fprintln(o.err, "orrery: the lock cannot be read and is written anew:", err)
		old = lock.Lock{}
	}
	locked, have, err := s.LockInto(ctx, target, &old)
	if err != nil {
		return err
	}
	r := newLockReport(s.LockFile(), locked, have, target.Platform == "")
	data, err := old.Format()
	if err != nil {
		return err
	}
	if before, err := os.ReadFile(r.File); err != nil || !bytes.Equal(before, data) {
		if err := atomicfile.Write(r.File, data, 0o644); err != nil {
			return fmt.Errorf("write the lock: %w", err)
		}
		r.Written = true
	}
	sink.Close()
	if o.json() {
		return printJSON(o.out, r)
	}
	for _, d := range r.Drift {
		fmt.Fprintf(o.out, "changed: %s %s: %s\n", d.Kind, d.Name, d.Reason())
	}
	if !r.Written {
		_, err = fmt.Fprintf(o.out, "%s: %d entries, nothing changed\n", r.File, r.Entries)
	} else {
		_, err = fmt.Fprintf(o.out, "%s: %d entries written; commit it\n", r.File, r.Entries)
	}
	return err
}
