package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// Types of the documents that a bundle attaches to an image.
const (
	sbomType       = "application/vnd.cyclonedx+json"
	provenanceType = "application/vnd.in-toto+json"
)

type bundleCreate struct {
	*options
	components []string
	key        string
}

func newBundleCreate(o *options) *cobra.Command {
	b := &bundleCreate{options: o}
	file := fmt.Sprintf("orrery-linux-%s%s", runtime.GOARCH, bundle.Extension)
	c := &cobra.Command{
		Use:   "create [FILE]",
		Short: "Write a bundle: images, programs of the nodes, catalogue and lock in one signed file",
		Long: `Build what is not built yet, hold it to the lock, and write one file (default:
orrery-linux-ARCH.orrery) with all that 'orrery up --bundle' needs on a machine of the same
platform. FILE.pub beside it is the key that the other side has to trust; its fingerprint
is printed. The same platform gives the same file, apart from the signature.

Without --key, this machine's own key signs, which is made at first use.`,
		Example: `  orrery bundle create                              # all components of the overlay
  orrery bundle create small.orrery --components nats
  orrery bundle create -o release.orrery --key cosign.key`,
		Args: cobra.MaximumNArgs(1),
		PersistentPreRunE: func(c *cobra.Command, args []string) error {
			if strings.HasSuffix(o.output, bundle.Extension) && len(args) == 0 { // the habit of other programs
				file, o.output = o.output, "text"
			}
			return o.checkOutput(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				file = args[0]
			}
			return b.run(c.Context(), file)
		},
	}
	c.Flags().StringSliceVar(&b.components, "components", nil, "components to take, with what they need (default: those of orrery.yaml, or all of the overlay)")
	c.Flags().StringVar(&b.key, "key", "", "private key (cosign.key) to sign with; its password is in ORRERY_KEY_PASSWORD")
	return c
}

// createReport is what `bundle create -o json` prints; its form is a contract.
type createReport struct {
	bundleReport
	PublicKey string  `json:"publicKey"` // file
	Seconds   float64 `json:"seconds"`   // of writing it, without what had to be built
}

func (b *bundleCreate) run(ctx context.Context, file string) error {
	sink := b.renderer()
	defer sink.Close()
	if info, err := os.Stat(filepath.Dir(file)); err != nil || !info.IsDir() {
		return usagef("%s: there is no folder %s", file, filepath.Dir(file))
	}
	contents, err := b.contents(ctx, sink)
	if err != nil {
		return err
	}
	want, err := b.loadSpec()
	if err != nil {
		return usageError{err}
	}
	key, err := bundleKey(ctx, b.key, want.Images)
	if err != nil {
		return err
	}
	for typ, text := range map[ui.Type]string{ui.TypeNotice: key.Notice, ui.TypeWarning: key.Warning} {
		if text != "" {
			sink.Emit(ui.Event{Type: typ, Phase: "build", Message: text})
		}
	}
	start := time.Now()
	if err := stepOf(sink, "bundle/create", func() error {
		return bundle.Create(ctx, file, contents, bundle.CreateOptions{Sign: key.SignBlob, PublicKey: key.Public().PEM(), Sink: sink})
	}); err != nil {
		return err
	}
	took := seconds(time.Since(start))
	if err := atomicfile.Write(file+".pub", key.Public().PEM(), 0o644); err != nil {
		return err
	}
	sink.Close()
	made, err := openBundle(file)
	if err != nil {
		return err
	}
	defer made.Close()
	if err := noteTrusted(ctx, made.Digest()); err != nil { // it is ours, whatever becomes of the key
		return err
	}
	r := createReport{bundleReport{file, made.Describe(), key.Public().Fingerprint(), true}, file + ".pub", took}
	if b.output == "json" {
		return printJSON(b.out, r)
	}
	_, err = fmt.Fprintf(b.out, `%s: %d images, %d programs, %s, unpacked %s (%.1f s, %s/s)
  digest     %s
  signed by  %s (%s.pub)
On the other machine, when it trusts that key:
  orrery up --bundle %[1]s --key %[1]s.pub
`, file, len(r.Images), len(r.Programs), megabytes(r.Size), megabytes(r.Unpacked), took, megabytes(int64(float64(r.Unpacked)/max(took, 0.001))), r.Digest, r.Key, file)
	return err
}

// contents builds what is missing, holds it to the lock, and lists what goes in.
func (b *bundleCreate) contents(ctx context.Context, sink ui.Sink) (bundle.Contents, error) {
	var c bundle.Contents
	want, err := b.loadSpec()
	if err != nil {
		return c, usageError{err}
	}
	w, err := b.workshop(sink)
	if err != nil {
		return c, err
	}
	names := b.components
	if len(names) == 0 {
		names = want.Components
	}
	if len(names) == 0 && w.store != nil { // one bundle out of another
		names = (&session{options: b.options, spec: want}).componentsWanted(w.catalog)
	}
	components, err := w.catalog.Select(want.Overlay, names)
	if err != nil {
		return c, usageError{err}
	}
	w.catalog.Distribution = w.catalog.Distribution.For(bundledNetwork(want.Network.Plugin))
	c = bundle.Contents{Platform: build.Platform(), Overlay: want.Overlay, Root: w.catalog.Root}
	w.restrict(components)
	for _, comp := range components {
		c.Components = append(c.Components, comp.Name)
	}
	slices.Sort(c.Components)
	if c.Files, err = catalogFiles(w.catalog); err != nil {
		return c, err
	}
	if err := w.supplyAll(ctx); err != nil {
		return c, err
	}
	locked, err := w.bundledLock(ctx, sink)
	if err != nil {
		return c, err
	}
	formatted, err := lock.Lock{APIVersion: lock.APIVersion, Kind: lock.Kind, Platforms: map[string]lock.Platform{c.Platform: locked}}.Format()
	if err != nil {
		return c, err
	}
	c.Lock = formatted
	for _, bin := range w.catalog.Distribution.Files() {
		path, err := w.supply.Binary(ctx, bin)
		if err != nil {
			return c, err
		}
		c.Programs = append(c.Programs, bundle.Program{Name: bin.Name, SHA256: locked.Binaries[bin.Name].SHA256, Path: path})
	}
	slices.SortFunc(c.Programs, func(x, y bundle.Program) int { return strings.Compare(x.Name, y.Name) })
	if c.Papers, err = w.papers(ctx, w.catalog.Distribution.Files()); err != nil {
		return c, err
	}
	for _, name := range slices.Sorted(maps.Keys(w.images)) {
		built, err := w.supply.Image(ctx, w.images[name])
		if err != nil {
			return c, err
		}
		c.Images = append(c.Images, built)
	}
	if c.Attached, err = w.attached(ctx, c.Images); err != nil {
		return c, err
	}
	fetched, err := b.fetchedImages(w)
	if err != nil {
		return c, err
	}
	for _, name := range slices.Sorted(maps.Keys(w.pulled)) {
		built, ok := fetched(w.pulled[name])
		if !ok {
			sink.Emit(ui.Event{Type: ui.TypeWarning, Message: fmt.Sprintf("the bundle goes without image %s, which is not on this machine: 'orrery up' pulls it where %s can be reached", name, w.pulled[name].Registry)})
			continue
		}
		c.Images = append(c.Images, built)
		attached, err := bundle.AttachedTo(built)
		if err != nil {
			return c, err
		}
		c.Attached = append(c.Attached, attached...)
	}
	return c, nil
}

// bundledNetwork is the plugin that a bundle has the parts of: the other machine decides what
// auto means there, and can only choose what it is given.
func bundledNetwork(plugin string) string {
	if plugin == spec.PluginAuto {
		return spec.PluginCilium
	}
	return plugin
}

// supplyAll has all that is not here built. The programs of images that are here already are
// not asked for.
func (w *workshop) supplyAll(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, bin := range w.catalog.Distribution.Files() {
		g.Go(func() error {
			_, err := w.supply.Binary(ctx, bin)
			return err
		})
	}
	for _, img := range w.images {
		g.Go(func() error {
			_, err := w.supply.Image(ctx, img)
			return err
		})
	}
	return g.Wait()
}

// restrict leaves only the node distribution and the given components.
func (w *workshop) restrict(components []catalog.Component) {
	w.images = map[string]catalog.Image{w.catalog.Distribution.Sandbox.Name: w.catalog.Distribution.Sandbox}
	w.binaries, w.pulled = map[string]catalog.Binary{}, map[string]catalog.Image{}
	for _, bin := range w.catalog.Distribution.Files() {
		w.binaries[bin.Name] = bin
	}
	for _, comp := range components {
		for _, img := range comp.Images {
			if img.Registry != "" {
				w.pulled[img.Name] = img
			} else {
				w.images[img.Name] = img
			}
		}
	}
	for _, img := range w.images {
		for _, bin := range img.Binaries {
			w.binaries[bin.Name] = bin
		}
	}
}

// bundledLock is the part of the lock that the bundle is about. What is not as locked is
// refused, except for binaries with C in them: they get the digest that they have here.
func (w *workshop) bundledLock(ctx context.Context, sink ui.Sink) (lock.Platform, error) {
	have, err := w.describe(ctx)
	if err = errors.Join(err, w.lockErr); err != nil {
		return have, err
	}
	if w.locked == nil {
		return have, refusedError{fmt.Errorf("%s has nothing for %s: a bundle is made of what is locked; 'orrery lock' writes it", w.lockFile(), build.Platform())}
	}
	drift, notes := lock.Check(*w.locked, have, false)
	for _, n := range notes {
		sink.Emit(ui.Event{Type: ui.TypeWarning, Phase: "build", Message: n})
	}
	if len(drift) > 0 {
		return have, refusedError{fmt.Errorf("%s does not allow it:\n%s", w.lockFile(), lock.Explain(drift))}
	}
	own := lock.Platform{Binaries: map[string]lock.Binary{}, Images: map[string]lock.Image{}}
	for name, h := range have.Binaries {
		l := w.locked.Binaries[name]
		if h.SHA256 != "" && h.SHA256 != l.SHA256 {
			l.SHA256, l.CTools, l.SBOM = h.SHA256, h.CTools, h.SBOM
		}
		own.Binaries[name] = l
	}
	for name, h := range have.Images {
		l := w.locked.Images[name]
		if h.Digest != "" && h.Digest != l.Digest {
			l.Digest, l.SBOM = h.Digest, h.SBOM
		}
		own.Images[name] = l
	}
	return own, nil
}

// attached makes the documents of all images. Out of a bundle, they are those that came in
// it.
func (w *workshop) attached(ctx context.Context, images []image.Built) ([]bundle.Attached, error) {
	var out []bundle.Attached
	if w.store != nil {
		for _, built := range images {
			a, err := w.store.Attached(built.Digest)
			if err != nil {
				return nil, err
			}
			out = append(out, a...)
		}
		return out, nil
	}
	p := &platform{catalog: w.catalog, supply: w.supply, sources: &sourced{supplier: w.supply}, builder: w.builder, locked: w.locked}
	made := make([][]bundle.Attached, len(images))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, built := range images {
		g.Go(func() error {
			docs, err := p.documents(ctx, w.images[built.Name], built)
			if err != nil {
				return err
			}
			subject, err := subjectOf(built)
			if err != nil {
				return err
			}
			for _, doc := range []struct {
				kind string
				data []byte
			}{{sbomType, docs.SBOM}, {provenanceType, docs.Provenance}} {
				if doc.data == nil {
					continue
				}
				a, err := bundle.Document(subject, doc.kind, doc.data)
				if err != nil {
					return err
				}
				made[i] = append(made[i], a)
			}
			return nil
		})
	}
	err := g.Wait()
	return slices.Concat(made...), err
}

// subjectOf describes the manifest of an image, as what is attached to it names it.
func subjectOf(built image.Built) (v1.Descriptor, error) {
	digest, err := v1.NewHash(built.Digest)
	if err != nil {
		return v1.Descriptor{}, err
	}
	info, err := os.Stat(filepath.Join(built.Layout, "blobs", digest.Algorithm, digest.Hex))
	if err != nil {
		return v1.Descriptor{}, err
	}
	return v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: digest, Size: info.Size()}, nil
}
