package app

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/supply"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newBundle(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "bundle",
		Short: "One file with the whole platform, for machines without Go, compiler and network",
	}
	c.AddCommand(newBundleCreate(o), newBundleInspect(o), newBundleImport(o), newBundleDiff(o), newBundleDistrust(o))
	return c
}

func newBundleImport(o *options) *cobra.Command {
	var key string
	c := &cobra.Command{
		Use:   "import FILE",
		Short: "Unpack a bundle into the cache of this machine",
		Long: `Check the signature of a bundle, hash every byte of it and unpack it into the cache.
'orrery up --bundle FILE' does the same first; in a repository, 'orrery up' then takes
what its lock names from there rather than compile it.

An import that was interrupted goes on where it was. A damaged byte is named: offset, blob,
image and file. A bundle that nobody trusted signed is refused (exit status 3).`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			sink := o.renderer()
			defer sink.Close()
			r, err := o.importBundle(c.Context(), args[0], key, sink)
			if err != nil {
				return err
			}
			sink.Close()
			if o.json() {
				return printJSON(o.out, r)
			}
			if r.Already {
				_, err = fmt.Fprintf(o.out, "%s is imported already: %s\n", r.Digest, r.Dir)
				return err
			}
			_, err = fmt.Fprintf(o.out, "imported %s in %.1f s: %s written, %s kept, %s/s\n  %s\n", r.Digest, r.Seconds,
				megabytes(r.Written), megabytes(r.Kept), megabytes(int64(float64(r.Written+r.Kept)/max(r.Seconds, 0.001))), r.Dir)
			return err
		},
	}
	c.Flags().StringVar(&key, "key", "", "public key (PEM) of whoever made the bundle, trusted this once")
	return c
}

// bundleReport is what `bundle inspect -o json` prints; its form is a contract.
type bundleReport struct {
	File string `json:"file"`
	bundle.Description
	Key     string `json:"key"`     // fingerprint
	Trusted bool   `json:"trusted"` // by this machine and orrery.yaml
}

func newBundleInspect(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect FILE",
		Short: "What a bundle holds, who signed it and whether that is trusted here",
		Long: `Read the index of a bundle and check its signature. The content is not read: import
hashes it. -o lock prints the orrery.lock in it, -o key the public key of its signer.`,
		Annotations: map[string]string{outputs: "key lock"},
		Args:        cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			b, err := supply.OpenBundle(args[0])
			if err != nil {
				return err
			}
			defer b.Close()
			signer, err := supply.BundleSigner(b)
			if err != nil {
				return failure.Refused{Err: err}
			}
			switch o.output {
			case "key":
				_, err = o.out.Write(signer.PEM())
				return err
			case "lock":
				data, err := b.Lock()
				if err == nil {
					_, err = o.out.Write(data)
				}
				return err
			}
			request := o.request(ui.Discard)
			want, err := request.Spec()
			if err != nil {
				return err
			}
			want.Images.Verify = ""
			r := bundleReport{File: args[0], Description: b.Describe(), Key: signer.Fingerprint(), Trusted: trusts(request.Machine(), b, args[0], want.Images)}
			if o.json() {
				return printJSON(o.out, r)
			}
			return o.printBundle(r)
		},
	}
}

// trusts reports whether an import would be allowed without a key.
func trusts(m supply.Machine, b *bundle.File, file string, policy spec.Images) bool {
	ok, err := m.Trusts(b, file, "", policy, ui.Discard)
	return ok && err == nil
}

func (o *options) printBundle(r bundleReport) error {
	trusted := "not trusted here"
	if r.Trusted {
		trusted = "trusted"
	}
	fmt.Fprintf(o.out, "%s\n  digest      %s\n  platform    %s\n  components  %s (overlay %s)\n  size        %s,"+
		" unpacked %s\n  signed by   %s (%s)\n  lock        sha256:%s\n\n",
		r.File, r.Digest, r.Platform, strings.Join(r.Components, " "), r.Overlay, megabytes(r.Size), megabytes(r.Unpacked), r.Key, trusted, r.LockSHA256)
	rows := [][]string{}
	for _, p := range r.Programs {
		rows = append(rows, []string{"program", p.Name, "", p.SHA256[:12], megabytes(p.Size), ""})
	}
	for _, i := range r.Images {
		rows = append(rows, []string{"image", i.Name, i.Version, strings.TrimPrefix(i.Digest, "sha256:")[:12], megabytes(i.Size), strings.Join(i.Attached, " ")})
	}
	return ui.Table(o.out, []string{"KIND", "NAME", "VERSION", "DIGEST", "SIZE", "ATTACHED"}, rows)
}

// bundleDiff is what `bundle diff -o json` prints; its form is a contract.
type bundleDiff struct {
	Have  string        `json:"have"`
	Want  string        `json:"want"`
	Fetch int64         `json:"fetch"` // bytes
	Total int64         `json:"total"` // bytes of all that is wanted
	Needs []bundle.Need `json:"needs"`
}

func newBundleDiff(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "diff [A] B",
		Short: "What a machine that has A would have to fetch for B, in bytes",
		Long: `Compare two bundles by their indexes, part by part. Either of them is a file, the digest of
an imported bundle, or "-" for what the cache of this machine has. With one argument A is "-".`,
		Example: `  orrery bundle diff march.orrery april.orrery
  orrery bundle diff april.orrery`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				args = []string{"-", args[0]}
			}
			items := make([][]bundle.Item, 2)
			for i, arg := range args {
				var err error
				if items[i], err = itemsOf(o.request(ui.Discard).CacheDir, arg); err != nil {
					return err
				}
			}
			d := bundleDiff{Have: args[0], Want: args[1]}
			d.Needs, d.Fetch, d.Total = bundle.Diff(items[0], items[1])
			d.Needs = append([]bundle.Need{}, d.Needs...)
			if o.json() {
				return printJSON(o.out, d)
			}
			rows := [][]string{}
			for _, n := range d.Needs {
				rows = append(rows, []string{n.Kind, n.Name, megabytes(n.Bytes), megabytes(n.Of)})
			}
			if err := ui.Table(o.out, []string{"KIND", "NAME", "TO FETCH", "OF"}, rows); err != nil {
				return err
			}
			_, err := fmt.Fprintf(o.out, "\n%s of %s are to be fetched\n", megabytes(d.Fetch), megabytes(d.Total))
			return err
		},
	}
}

func itemsOf(cacheDir, arg string) ([]bundle.Item, error) {
	switch {
	case arg == "-":
		return supply.CachedItems(cacheDir)
	case strings.HasPrefix(arg, "sha256:"):
		b, err := bundle.OpenImported(cacheDir, arg)
		if err != nil {
			return nil, failure.Usage{Err: err}
		}
		return b.Items(), nil
	}
	b, err := supply.OpenBundle(arg)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return b.Items(), nil
}

// bundleFlags name the bundle that everything comes from.
type bundleFlags struct{ file, key string }

func (b *bundleFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&b.file, "bundle", "", "take catalogue, programs and images from this file of"+
		" 'orrery bundle create': nothing is compiled")
	c.Flags().StringVar(&b.key, "key", "", "public key (PEM) that the bundle must be signed by, trusted this once")
}

// namedBundle is the bundle that flags name.
func (o *options) namedBundle(r environment.Request, from bundleFlags) (supply.Import, error) {
	if from.file == "" {
		return supply.Import{}, failure.Usagef("--key is about a bundle: name it with --bundle FILE")
	}
	if o.catalog != "" {
		return supply.Import{}, failure.Usagef("--bundle and --catalog: the catalogue is the bundle's; give one of them")
	}
	return o.bundleImport(r, from.file, from.key)
}

// previewBundle has a bundle looked at and not imported, until release is called.
func (o *options) previewBundle(r environment.Request, from bundleFlags) (l *supply.Location, release func(), err error) {
	what, err := o.namedBundle(r, from)
	if err != nil {
		return nil, nil, err
	}
	return what.Preview()
}

// bundleImport is a bundle that a person named, by the policy of orrery.yaml.
func (o *options) bundleImport(r environment.Request, file, key string) (supply.Import, error) {
	want, err := r.Spec()
	if err != nil {
		return supply.Import{}, err
	}
	return supply.Import{File: file, Key: key, Machine: r.Machine(), CacheDir: r.CacheDir, Images: want.Images, Sink: r.Sink}, nil
}

func (o *options) importBundle(ctx context.Context, file, key string, sink ui.Sink) (bundle.Result, error) {
	what, err := o.bundleImport(o.request(sink), file, key)
	if err != nil {
		return bundle.Result{}, err
	}
	return what.Run(ctx, func(do func() error) error { return stepOf(sink, "bundle/import", do) })
}

// stepOf shows a verb that is one step while do runs.
func stepOf(sink ui.Sink, name string, do func() error) error {
	start := time.Now()
	sink.Emit(ui.Event{Time: start, Type: ui.TypeStep, Step: name, Phase: "build", State: ui.StateRunning})
	err := do()
	e := ui.Event{Time: time.Now(), Type: ui.TypeStep, Step: name, Phase: "build", State: ui.StateDone, Seconds: environment.Seconds(time.Since(start))}
	if err != nil {
		e.State, e.Error = ui.StateFailed, err.Error()
	}
	sink.Emit(e)
	return err
}
