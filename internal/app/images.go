package app

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newImages(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "images",
		Short: "What the platform runs: list, look inside, verify, build again and compare, load, push, clean up",
	}
	c.AddCommand(newImagesList(o), newImagesInspect(o), newImagesBuild(o),
		newImagesSBOM(o), newImagesProvenance(o), newImagesVerify(o), newImagesSign(o),
		newImagesReproduce(o), newImagesLoad(o), newImagesPush(o), newImagesPrune(o), newImagesRebuild(o))
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
	// Signed is yes, no, or empty when no environment's nodes can pull it.
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
	s, err := o.request(ui.Discard).Supply()
	if err != nil {
		return nil, err
	}
	all, locked := s.All(), s.Locked
	have, err := s.Describe(ctx, all)
	if err != nil {
		return nil, err
	}
	used, signed := o.imagesInUse(ctx), o.signedImages(ctx)
	drifted := map[string]bool{}
	if locked != nil {
		drift, _ := lock.Check(*locked, have, false)
		for _, d := range drift {
			drifted[d.Kind+" "+d.Name] = true
		}
	}
	rows := []imageRow{}
	for _, name := range slices.Sorted(maps.Keys(all.Images)) {
		img := all.Images[name]
		row := imageRow{Name: name, Version: img.Version, Component: all.From[name], Signed: signed[name], Source: img.Registry, Locked: "pulled"}
		built, ok, err := s.CachedImage(ctx, img)
		if err != nil {
			return nil, err
		}
		if ok {
			row.Digest, row.Size, row.From = built.Digest, built.Size, s.Origin(built)
		}
		if img.Registry == "" {
			row.Source = have.Binaries[img.Binaries[0].Name].Module
			row.Locked, row.SBOM = lockedAs(locked, img, row.Digest, drifted)
		}
		rows = append(rows, row)
	}
	for i := range rows {
		if row := &rows[i]; used != nil {
			row.UsedOn = append([]string{}, used[row.Name]...)
			if row.Name == s.Catalog.Distribution.Sandbox.Name { // every pod has one
				row.UsedOn = append(row.UsedOn, used[""]...)
			}
			slices.Sort(row.UsedOn)
			row.UsedOn = slices.Compact(row.UsedOn)
		}
	}
	slices.SortFunc(rows, func(a, b imageRow) int { return cmp.Compare(a.Name, b.Name) })
	return rows, nil
}

// lockedAs says whether an image is as locked, as far as it is here, and the digest of its bill
// of materials in the lock.
func lockedAs(locked *lock.Platform, img catalog.Image, digest string, drifted map[string]bool) (state, sbom string) {
	if locked == nil {
		return "no", ""
	}
	l, ok := locked.Images[img.Name]
	differs := drifted["image "+img.Name] || slices.ContainsFunc(img.Binaries, func(b catalog.Binary) bool { return drifted["binary "+b.Name] })
	switch {
	case !ok:
		return "no", ""
	case differs:
		return "differs", l.SBOM
	case digest == "":
		return "unknown", l.SBOM
	}
	return "yes", l.SBOM
}

// imagesInUse maps image names to the nodes that have pods of them; "" maps to all nodes
// with pods. It is nil when no cluster answers.
func (o *options) imagesInUse(ctx context.Context) map[string][]string {
	e, err := o.existing()
	if err != nil {
		return nil
	}
	client, err := e.Kube(ctx)
	if err != nil {
		return nil
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	pods, err := client.List(ctx, "v1", "Pod", "", "")
	if err != nil {
		return nil
	}
	host := mirror.Host
	if !e.Kind.Mirror {
		host = e.Spec.Images.Registry
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
				rest, ok := strings.CutPrefix(ref, host+"/")
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

func (o *options) completeImages(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	c, err := o.request(ui.Discard).Location().Catalog()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	names := []string{c.Distribution.Sandbox.Name}
	for _, component := range c.Components {
		for _, img := range component.Images {
			names = append(names, img.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
}
