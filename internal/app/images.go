package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newImages(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "images",
		Short: "What the platform runs: list, look inside, verify, build again and compare, load, clean up",
	}
	c.AddCommand(newImagesList(o), newImagesInspect(o), newImagesBuild(o), newImagesSBOM(o), newImagesProvenance(o), newImagesVerify(o), newImagesSign(o), newImagesReproduce(o), newImagesLoad(o), newImagesPrune(o), newImagesRebuild(o))
	return c
}

// imageRow is one entry of `images list -o json`; its form is a contract.
type imageRow struct {
	Name      string `json:"name"`
	Version   string `json:"version"`
	Component string `json:"component"`
	// Source of the first binary: MODULE@VERSION, or a module of the repository. Of an image
	// that is not built here: the reference that it is pulled by.
	Source string `json:"source"`
	// From is where the image on this machine came from: source, registry or bundle; empty
	// when it is not here.
	From   string `json:"from,omitempty"`
	Digest string `json:"digest"` // empty when it is not here
	Size   int64  `json:"size"`   // bytes to transfer
	// Locked is yes, no (not in the lock), differs, unknown (not here), or pulled: by the
	// digest that stands in the catalogue.
	Locked string `json:"locked"`
	SBOM   string `json:"sbom,omitempty"` // digest
	// Signed is yes, no, or empty when no environment's mirror has it.
	Signed string `json:"signed,omitempty"`
	// UsedOn are the nodes with pods of it; null when no cluster answers.
	UsedOn []string `json:"usedOn"`
}

func newImagesList(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Every image: version, source, digest, size, whether it is as locked and signed, and where it runs",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			rows, err := listImages(c.Context(), o)
			if err != nil {
				return err
			}
			if o.json() {
				return printJSON(o.out, rows)
			}
			return printImages(o.out, rows)
		},
	}
}

func listImages(ctx context.Context, o *options) ([]imageRow, error) {
	w, err := o.workshop(ui.Discard)
	if err != nil {
		return nil, err
	}
	locked := w.locked
	if w.lockErr != nil {
		return nil, w.lockErr
	}
	have, err := w.describe(ctx)
	if err != nil {
		return nil, err
	}
	used, signed := o.imagesInUse(ctx), o.signedImages(ctx)
	fetched, err := o.fetchedImages(w)
	if err != nil {
		return nil, err
	}
	drifted := map[string]bool{}
	if locked != nil {
		drift, _ := lock.Check(*locked, have, false)
		for _, d := range drift {
			drifted[d.Kind+" "+d.Name] = true
		}
	}
	rows := []imageRow{}
	for _, name := range slices.Sorted(maps.Keys(w.images)) {
		img := w.images[name]
		row := imageRow{Name: name, Version: img.Version, Component: w.source[name], Signed: signed[name], Source: have.Binaries[img.Binaries[0].Name].Module}
		if built, ok, err := w.supply.CachedImage(ctx, img); err != nil {
			return nil, err
		} else if ok {
			row.Digest, row.Size, row.From = built.Digest, built.Size, origin(built)
		} else if built, ok = fetched(img); ok {
			row.Digest, row.Size, row.From = built.Digest, built.Size, origin(built)
		}
		differs := drifted["image "+name] || slices.ContainsFunc(img.Binaries, func(b catalog.Binary) bool { return drifted["binary "+b.Name] })
		inLock := false
		if locked != nil {
			l, ok := locked.Images[name]
			inLock, row.SBOM = ok, l.SBOM
		}
		switch {
		case !inLock:
			row.Locked = "no"
		case differs:
			row.Locked = "differs"
		case row.Digest == "":
			row.Locked = "unknown"
		default:
			row.Locked = "yes"
		}
		rows = append(rows, row)
	}
	for name, img := range w.pulled {
		row := imageRow{Name: name, Version: img.Version, Component: w.source[name], Signed: signed[name], Source: img.Registry, Locked: "pulled"}
		if built, ok := fetched(img); ok {
			row.Digest, row.Size, row.From = built.Digest, built.Size, origin(built)
		}
		rows = append(rows, row)
	}
	for i := range rows {
		if row := &rows[i]; used != nil {
			row.UsedOn = append([]string{}, used[row.Name]...)
			if row.Name == w.catalog.Distribution.Sandbox.Name { // every pod has one
				row.UsedOn = append(row.UsedOn, used[""]...)
			}
			slices.Sort(row.UsedOn)
			row.UsedOn = slices.Compact(row.UsedOn)
		}
	}
	slices.SortFunc(rows, func(a, b imageRow) int { return cmp.Compare(a.Name, b.Name) })
	return rows, nil
}

// imagesInUse maps image names to the nodes that have pods of them; "" maps to all nodes
// with pods. It is nil when no cluster answers.
func (o *options) imagesInUse(ctx context.Context) map[string][]string {
	s, err := o.attach(ui.Discard)
	if err != nil || !s.exists {
		return nil
	}
	client, err := s.kube()
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	pods, err := client.List(ctx, "v1", "Pod", "", "")
	if err != nil {
		return nil
	}
	used := map[string][]string{}
	for _, pod := range pods {
		node, _, _ := unstructured.NestedString(pod.Object, "spec", "nodeName")
		phase, _, _ := unstructured.NestedString(pod.Object, "status", "phase")
		if node == "" || phase == "Succeeded" || phase == "Failed" {
			continue
		}
		used[""] = append(used[""], node)
		for _, list := range []string{"containers", "initContainers"} {
			containers, _, _ := unstructured.NestedSlice(pod.Object, "spec", list)
			for _, c := range containers {
				m, _ := c.(map[string]any)
				ref, _ := m["image"].(string)
				rest, ok := strings.CutPrefix(ref, image.RegistryHost+"/")
				if !ok {
					continue
				}
				name, _, _ := strings.Cut(rest, "@")
				name, _, _ = strings.Cut(name, ":")
				used[name] = append(used[name], node)
			}
		}
	}
	return used
}

func printImages(out io.Writer, rows []imageRow) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tVERSION\tSOURCE\tFROM\tDIGEST\tSIZE\tLOCKED\tSBOM\tSIGNED\tIN USE ON")
	for _, r := range rows {
		digest, size, sbom, used := "not built", "-", "-", "-"
		if r.Locked == "pulled" {
			digest = "not pulled"
		}
		if r.Digest != "" {
			digest, size = strings.TrimPrefix(r.Digest, "sha256:")[:12], megabytes(r.Size)
		}
		if r.SBOM != "" {
			sbom = "yes"
		}
		if r.UsedOn != nil {
			used = cmp.Or(strings.Join(r.UsedOn, " "), "nothing")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, r.Version, r.Source, cmp.Or(r.From, "-"), digest, size, r.Locked, sbom, cmp.Or(r.Signed, "-"), used)
	}
	return w.Flush()
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

func newImagesInspect(o *options) *cobra.Command {
	return &cobra.Command{
		Use:               "inspect IMAGE",
		Short:             "Layers, files, build settings and modules of an image",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.completeImages,
		RunE: func(c *cobra.Command, args []string) error {
			in, err := o.inspectImage(c.Context(), args[0])
			if err != nil {
				return err
			}
			if o.json() {
				return printJSON(o.out, in)
			}
			return printInspection(o.out, in)
		},
	}
}

// inspectImage reads an image: one that is built here, else as it came in a bundle or from a
// registry.
func (o *options) inspectImage(ctx context.Context, name string) (image.Inspection, error) {
	w, err := o.workshop(ui.Discard)
	if err != nil {
		return image.Inspection{}, err
	}
	if img, ok := w.pulled[name]; ok || w.store != nil {
		if !ok {
			if img, err = w.image(name); err != nil {
				return image.Inspection{}, err
			}
		}
		fetched, err := o.fetchedImages(w)
		if err != nil {
			return image.Inspection{}, err
		}
		built, ok := fetched(img)
		if !ok {
			return image.Inspection{}, fmt.Errorf("image %s is not on this machine: 'orrery up' has it pulled where %s can be reached, and 'orrery bundle import' brings one that a bundle has", name, cmp.Or(img.Registry, "a registry"))
		}
		return image.ReadImage(ctx, built)
	}
	w, img, err := o.builtImage(ctx, name)
	if err != nil {
		return image.Inspection{}, err
	}
	return w.builder.Inspect(ctx, img)
}

// builtImage finds an image, and builds it if it is not built, showing progress on
// standard error: standard output is for what was asked.
func (o *options) builtImage(ctx context.Context, name string) (*workshop, catalog.Image, error) {
	sink := ui.Choose(o.err, true, false)
	defer sink.Close()
	w, err := o.workshop(sink)
	if err != nil {
		return nil, catalog.Image{}, err
	}
	img, err := w.image(name)
	if err != nil {
		return nil, img, err
	}
	if err := w.needsSource("images"); err != nil {
		return nil, img, err
	}
	if _, ok, err := w.supply.CachedImage(ctx, img); ok || err != nil {
		return w, img, err
	}
	_, err = w.supply.Image(ctx, img)
	return w, img, err
}

func printInspection(out io.Writer, in image.Inspection) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%s\n", in.Name, in.Version)
	fmt.Fprintf(&b, "  digest      %s\n  platform    %s\n  size        %s\n  user        %s\n  entrypoint  %s\n",
		in.Digest, in.Platform, megabytes(in.Size), in.User, strings.Join(in.Entrypoint, " "))
	for i, l := range in.Layers {
		fmt.Fprintf(&b, "\nlayer %d  %s  %s\n", i, l.Digest, megabytes(l.Size))
		for _, f := range l.Files {
			name := f.Path
			if f.Link != "" {
				name += " -> " + f.Link
			}
			fmt.Fprintf(&b, "  %04o  %-11s  %11d  %s\n", f.Mode, f.Owner, f.Size, name)
		}
	}
	for _, p := range in.Programs {
		fmt.Fprintf(&b, "\n%s  %s, %s\n", p.Path, p.Package, p.Go)
		for _, s := range p.Settings {
			fmt.Fprintf(&b, "  %s\n", s)
		}
		fmt.Fprintf(&b, "  %d modules\n", len(p.Modules))
		for _, m := range p.Modules {
			fmt.Fprintf(&b, "    %s %s %s", m.Path, m.Version, m.Sum)
			if m.Replaces != "" {
				fmt.Fprintf(&b, " (replaces %s)", m.Replaces)
			}
			fmt.Fprintln(&b)
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func newImagesBuild(o *options) *cobra.Command {
	return &cobra.Command{
		Use:               "build [IMAGE...]",
		Short:             "Build images, all of the catalogue when none is named; what is built already stays",
		ValidArgsFunction: o.completeImages,
		RunE: func(c *cobra.Command, args []string) error {
			w, sink, err := o.watchedWorkshop()
			if err != nil {
				return err
			}
			defer sink.Close()
			if len(args) == 0 {
				args = slices.Sorted(maps.Keys(w.images))
			}
			images := make([]catalog.Image, len(args))
			for i, name := range args {
				if images[i], err = w.image(name); err != nil {
					return err
				}
			}
			built := make([]image.Built, len(args))
			g, ctx := errgroup.WithContext(c.Context())
			for i, img := range images {
				g.Go(func() error {
					var err error
					built[i], err = w.supply.Image(ctx, img)
					return err
				})
			}
			if err := g.Wait(); err != nil {
				return err
			}
			sink.Close()
			if o.json() {
				return printJSON(o.out, built)
			}
			for _, b := range built {
				fmt.Fprintln(o.out, b.Reference())
			}
			return nil
		},
	}
}

func newImagesPrune(o *options) *cobra.Command {
	var dryRun bool
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove cached binaries, images and bundles that nothing needs any more",
		Long: `Remove from the cache what is not of the catalogue as it is now: old versions, other
branches; and imported bundles that no environment was made from. Running environments keep
what they run. Everything can be built, or imported, again.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := prune(c.Context(), o, dryRun)
			if err != nil {
				return err
			}
			if o.json() {
				return printJSON(o.out, p)
			}
			verb := "removed"
			if dryRun {
				verb = "would remove"
			}
			for _, name := range slices.Concat(p.Binaries, p.Images, p.Bundles) {
				fmt.Fprintln(o.out, verb, name)
			}
			_, err = fmt.Fprintf(o.out, "%s %d binaries, %d images and %d bundles, %s\n", verb, len(p.Binaries), len(p.Images), len(p.Bundles), megabytes(p.Bytes))
			return err
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be removed")
	return c
}

// pruned is what `images prune -o json` prints; its form is a contract.
type pruned struct {
	image.Pruned
	Bundles []string `json:"bundles"` // "bundle DIGEST", and rests of imports
}

// prune cleans the cache up. Without a repository only bundles are looked at: what the
// catalogue would need is not known then.
func prune(ctx context.Context, o *options, dryRun bool) (pruned, error) {
	p := pruned{Pruned: image.Pruned{Binaries: []string{}, Images: []string{}}, Bundles: []string{}}
	w, err := o.workshop(ui.Discard)
	if _, noRepository := o.root(); noRepository != nil && o.catalog == "" {
		err = nil
	} else if err == nil && w.builder != nil {
		var across []*image.Builder
		if across, err = w.across(o); err == nil {
			p.Pruned, err = w.builder.Prune(ctx, slices.Collect(maps.Values(w.binaries)), slices.Collect(maps.Values(w.images)), dryRun, across...)
		}
		err = errors.Join(err, w.prunePulled(ctx, &p.Pruned, dryRun))
	}
	gone, bundleErr := pruneBundles(dryRun)
	for _, g := range gone {
		p.Bundles, p.Bytes = append(p.Bundles, "bundle "+g.Digest), p.Bytes+g.Bytes
	}
	return p, errors.Join(err, bundleErr)
}

func (o *options) completeImages(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	w, err := o.workshop(ui.Discard)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return slices.Sorted(maps.Keys(w.images)), cobra.ShellCompDirectiveNoFileComp
}
