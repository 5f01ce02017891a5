package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
)

func newLock(o *options) *cobra.Command {
	var checkOnly bool
	c := &cobra.Command{
		Use:   "lock",
		Short: "Write orrery.lock: the digest of every binary and image, and what it is made from",
		Long: `Build every binary and image of the catalogue that is not built yet, and write their
digests and inputs to orrery.lock, which belongs into the commit. 'orrery up' and
'orrery deploy' refuse whatever is not as locked.

With --check nothing is built or written: exit status 1 when the catalogue, or what is
built of it here, is not as locked.`,
		Example: `  orrery lock            # after a version, a flag or a source file was changed
  orrery lock --check    # in CI`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if checkOnly {
				return checkLock(c.Context(), o)
			}
			return writeLock(c.Context(), o)
		},
	}
	c.Flags().BoolVar(&checkOnly, "check", false, "compare, build and write nothing")
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

func newLockReport(file string, locked, have lock.Platform) lockReport {
	r := lockReport{File: file, Drift: []lock.Drift{}, Notes: []string{}, NotBuilt: []string{}, Entries: len(have.Binaries) + len(have.Images)}
	drift, notes := lock.Check(locked, have, true)
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
	asJSON, err := o.wantJSON()
	if err != nil {
		return err
	}
	w, sink, err := o.watchedWorkshop()
	if err != nil {
		return err
	}
	defer sink.Close()
	if err := w.needsSource("lock"); err != nil {
		return err
	}
	l, err := lock.Load(w.lockFile())
	if errors.Is(err, fs.ErrNotExist) {
		return usageError{fmt.Errorf("%w\n'orrery lock' writes it", err)}
	}
	if err != nil {
		return usageError{err}
	}
	locked, ok := l.Platforms[image.Platform()]
	if !ok {
		return fmt.Errorf("%s has nothing for %s: 'orrery lock' on such a machine adds it", w.lockFile(), image.Platform())
	}
	have, err := w.describe(ctx)
	if err != nil {
		return err
	}
	w.noteSBOMs(have)
	r := newLockReport(w.lockFile(), locked, have)
	sink.Close()
	if asJSON {
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

func writeLock(ctx context.Context, o *options) error {
	asJSON, err := o.wantJSON()
	if err != nil {
		return err
	}
	w, sink, err := o.watchedWorkshop()
	if err != nil {
		return err
	}
	defer sink.Close()
	if err := w.needsSource("lock"); err != nil {
		return err
	}
	old, err := lock.Load(w.lockFile())
	if errors.Is(err, lock.ErrVersion) {
		return usageError{err}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		// It is about to be replaced, but only its entries for this platform are ours to make.
		fmt.Fprintln(o.err, "orrery: the lock cannot be read and is written anew:", err)
		old = lock.Lock{}
	}
	if err := w.buildAll(ctx); err != nil {
		return err
	}
	have, err := w.describe(ctx)
	if err != nil {
		return err
	}
	for _, img := range w.images {
		if _, err := w.sbom(ctx, img); err != nil {
			return err
		}
	}
	w.noteSBOMs(have)
	locked := old.Platforms[image.Platform()]
	for name, b := range have.Binaries {
		// A build beside others, or with compiler output at hand, measures less than a cold
		// one; and a lock that nothing changed stays as it is.
		if before := locked.Binaries[name]; before.SHA256 == b.SHA256 && before.CPUSeconds > 0 {
			b.CPUSeconds = before.CPUSeconds
		} else {
			b.CPUSeconds = math.Ceil(max(b.CPUSeconds, w.binaries[name].CPUSeconds))
		}
		have.Binaries[name] = b
	}
	r := newLockReport(w.lockFile(), locked, have)
	if old.Platforms == nil {
		old.Platforms = map[string]lock.Platform{}
	}
	old.Platforms[image.Platform()] = have
	data, err := old.Format()
	if err != nil {
		return err
	}
	if before, err := os.ReadFile(r.File); err != nil || !bytes.Equal(before, data) {
		if err := writeWhole(r.File, data); err != nil {
			return fmt.Errorf("write the lock: %w", err)
		}
		r.Written = true
	}
	sink.Close()
	if asJSON {
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

// buildAll has every binary and image of the catalogue built.
func (w *workshop) buildAll(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, bin := range w.binaries {
		g.Go(func() error {
			_, err := w.builder.Binary(ctx, bin)
			return err
		})
	}
	for _, img := range w.images {
		g.Go(func() error {
			_, err := w.builder.Image(ctx, img)
			return err
		})
	}
	return g.Wait()
}

// writeWhole replaces a file in one step: it is never half there.
func writeWhole(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
