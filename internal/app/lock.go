package app

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newLock(o *options) *cobra.Command {
	var checkOnly bool
	var across lockAcross
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
  orrery lock --platform linux/arm64 --only nats-server,coredns`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if checkOnly {
				return checkLock(c.Context(), o)
			}
			return writeLock(c.Context(), o, across)
		},
	}
	f := c.Flags()
	f.BoolVar(&checkOnly, "check", false, "compare, build and write nothing")
	f.StringVar(&across.platform, "platform", "", "lock for another platform, such as linux/arm64 (default: this machine's)")
	f.StringSliceVar(&across.only, "only", nil, "with --platform, build only these binaries and images")
	c.MarkFlagsMutuallyExclusive("check", "platform")
	return c
}

// lockAcross is what a person says about another platform.
type lockAcross struct {
	platform string
	only     []string
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
	locked, ok := l.Platforms[build.Platform()]
	if !ok {
		return fmt.Errorf("%s has nothing for %s: 'orrery lock' on such a machine adds it", w.lockFile(), build.Platform())
	}
	have, err := w.describe(ctx)
	if err != nil {
		return err
	}
	w.noteSBOMs(have)
	r := newLockReport(w.lockFile(), locked, have, true)
	elsewhere, err := w.driftElsewhere(ctx, o, l)
	if err != nil {
		return err
	}
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

func writeLock(ctx context.Context, o *options, across lockAcross) error {
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
	locked, have, err := w.lockFor(ctx, o, across, &old, sink)
	if err != nil {
		return err
	}
	r := newLockReport(w.lockFile(), locked, have, across.platform == "")
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

// lockFor builds what is to be locked and puts it into l: this machine's platform, or the
// one that was asked for. Entries of the others that are no longer of the catalogue as it
// is are left out of l.
func (w *workshop) lockFor(ctx context.Context, o *options, across lockAcross, l *lock.Lock, sink ui.Sink) (locked, have lock.Platform, err error) {
	if l.Platforms == nil {
		l.Platforms = map[string]lock.Platform{}
	}
	own := w.builder.Platform()
	target := cmp.Or(across.platform, own)
	if target == own && len(across.only) > 0 {
		return locked, have, usagef("--only is for another platform than this machine's, %s, of which everything is locked", own)
	}
	locked = l.Platforms[target]
	if target == own {
		if have, err = w.lockOwn(ctx, locked); err != nil {
			return locked, have, err
		}
		l.Platforms[own] = have
	}
	others, err := w.elsewhere(o, *l, sink)
	if err != nil {
		return locked, have, err
	}
	for _, other := range others {
		platform := other.builder.Platform()
		if platform == target {
			continue
		}
		if l.Platforms[platform], err = other.settle(ctx, l.Platforms[platform]); err != nil {
			return locked, have, fmt.Errorf("the lock's entries for %s: %w", platform, err)
		}
	}
	if target == own {
		return locked, have, nil
	}
	other, err := w.forPlatform(o, target, sink)
	if err != nil {
		return locked, have, err
	}
	some := other
	if len(across.only) > 0 {
		if some, err = other.only(across.only); err != nil {
			return locked, have, err
		}
	}
	if err = some.buildAcross(ctx); err != nil {
		return locked, have, err
	}
	have, err = other.settle(ctx, locked)
	l.Platforms[target] = have
	return locked, have, err
}

// lockOwn builds everything for this machine, and says what it is.
func (w *workshop) lockOwn(ctx context.Context, locked lock.Platform) (lock.Platform, error) {
	if err := w.buildAll(ctx); err != nil {
		return lock.Platform{}, err
	}
	have, err := w.describe(ctx)
	if err != nil {
		return have, err
	}
	for _, img := range w.images {
		if _, err := w.sbom(ctx, img); err != nil {
			return have, err
		}
	}
	for _, bin := range w.catalog.Distribution.Everything().Files() {
		if _, err := w.programSBOM(ctx, bin); err != nil {
			return have, err
		}
	}
	w.noteSBOMs(have)
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
	return have, nil
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
