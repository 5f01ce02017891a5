package catalog

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// APIVersion heads every file of the catalogue.
const APIVersion = "orrery.dev/v1alpha1"

// Folders of the catalogue, relative to the root of the repository.
const (
	BaseDir          = "infra/k8s/base"
	OverlayDir       = "infra/k8s/overlays"
	DistributionFile = "infra/native/distribution.yaml"
)

// Catalog is the whole catalogue of a repository. Treat it as read-only.
type Catalog struct {
	// Root is the absolute folder of the repository.
	Root         string
	Components   map[string]Component
	Overlays     map[string]Overlay
	Distribution Distribution

	elsewhere map[string]string // components that this environment does not have, with the reason
}

// Load reads and checks the catalogue below repoRoot. The error joins every mistake
// found, one per line.
func Load(repoRoot string) (*Catalog, error) {
	root, err := filepath.Abs(repoRoot)
	if err != nil {
		return nil, fmt.Errorf("catalogue folder %q: %w", repoRoot, err)
	}
	l := &loader{Catalog: &Catalog{Root: root, Components: map[string]Component{}, Overlays: map[string]Overlay{}}}
	l.distribution()
	l.components()
	l.overlays()
	if len(l.errs) == 0 {
		// Checks across files would only repeat what is wrong within one.
		l.checkGraph()
		l.checkBuilds()
		l.checkSecretRefs()
	}
	if len(l.errs) > 0 {
		return nil, errors.Join(l.errs...)
	}
	modules := map[string]float64{}
	l.EachBinary(func(b *Binary) { modules[b.Dir] += b.CPUSeconds })
	l.EachBinary(func(b *Binary) { b.ModuleSeconds = modules[b.Dir] })
	return l.Catalog, nil
}

// Pin fills in the digests of images that component.yaml names by tag: by what it names, such as
// docker.io/acme/operator:v1.2.3.
func (c *Catalog) Pin(digests map[string]string) {
	for _, component := range c.Components {
		for i := range component.Images {
			img := &component.Images[i]
			if digest := digests[img.Registry]; digest != "" && img.Unpinned() {
				img.Registry += "@" + digest
			}
		}
	}
}

// EachBinary calls f for every program that is declared anywhere, to change it in place.
func (c *Catalog) EachBinary(f func(*Binary)) {
	each := func(list []Binary) {
		for i := range list {
			f(&list[i])
		}
	}
	d := &c.Distribution
	each(d.Binaries)
	each(d.CNI)
	for _, n := range d.Networks {
		each(n.Binaries)
		each(n.CNI)
	}
	each(d.Sandbox.Binaries)
	for _, component := range c.Components {
		for _, img := range component.Images {
			each(img.Binaries)
		}
	}
}

// FindRoot walks up from dir to the folder that holds the catalogue.
func FindRoot(dir string) (string, error) {
	start, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("folder %q: %w", dir, err)
	}
	for d := start; ; d = filepath.Dir(d) {
		if info, err := os.Stat(filepath.Join(d, BaseDir)); err == nil && info.IsDir() {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("no catalogue found: neither %s nor a folder above it holds %s;"+
				" run inside the repository or pass --catalog DIR", start, BaseDir)
		}
	}
}

type loader struct {
	*Catalog
	errs []error
}

// fail records a mistake; file is absolute, or relative to the root already.
func (l *loader) fail(file, format string, a ...any) {
	l.errs = append(l.errs, fmt.Errorf("%s: %w", l.rel(file), fmt.Errorf(format, a...)))
}

func (l *loader) rel(file string) string {
	if r, err := filepath.Rel(l.Root, file); err == nil && filepath.IsLocal(r) {
		return filepath.ToSlash(r)
	}
	return file
}

// folders lists the subfolders of a folder by name, hidden ones left out.
func (l *loader) folders(dir string) []string {
	entries, err := os.ReadDir(filepath.Join(l.Root, dir))
	if err != nil {
		l.fail(dir, "cannot read the folder: %w", unpath(err))
		return nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names
}

// read decodes a file into v and says whether it could.
func (l *loader) read(file string, v any) bool {
	data, err := os.ReadFile(file)
	if err != nil {
		l.fail(file, "cannot read it: %w", unpath(err))
		return false
	}
	errs := decode(data, v)
	for _, err := range errs {
		l.errs = append(l.errs, fmt.Errorf("%s:%w", l.rel(file), err))
	}
	return len(errs) == 0
}

// unpath drops the path that the message already begins with.
func unpath(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

func (l *loader) components() {
	for _, name := range l.folders(BaseDir) {
		dir := filepath.Join(l.Root, BaseDir, name)
		file := filepath.Join(dir, "component.yaml")
		var c Component
		if !l.read(file, &c) {
			continue
		}
		c.Dir = dir
		for _, p := range checkComponent(c, name) {
			l.fail(file, "%s", p)
		}
		for i := range c.Images {
			at := fmt.Sprintf("images[%d]", i)
			l.modules(file, at+".binaries", c.Images[i].Binaries)
			l.ofNodes(file, at+".nodes", &c.Images[i])
		}
		l.rendered(file, c)
		l.Components[name] = c
	}
}

// ofNodes gives an image what it has of the node distribution.
func (l *loader) ofNodes(file, path string, img *Image) {
	all := l.Distribution.Everything().Files()
	var found []Binary
	for i, name := range img.Nodes {
		at := slices.IndexFunc(all, func(b Binary) bool { return b.Name == name })
		if at < 0 {
			l.fail(file, "%s[%d]: the node distribution has no program or archive %q", path, i, name)
			continue
		}
		found = append(found, all[at])
	}
	img.Binaries = append(found, img.Binaries...)
}

// module is the absolute folder that a field path of file names; "" after a complaint.
func (l *loader) module(file, path, named string) string {
	base, folder := filepath.Dir(file), named
	if rest, ok := strings.CutPrefix(folder, "//"); ok {
		base, folder = l.Root, rest
	}
	dir := filepath.Join(base, filepath.FromSlash(folder))
	if r, err := filepath.Rel(l.Root, dir); err != nil || !filepath.IsLocal(r) {
		l.fail(file, "%s: %q leaves the repository; name a folder below %s or below the root (//folder)", path, named, l.rel(filepath.Dir(file)))
		return ""
	}
	if !isFile(filepath.Join(dir, "go.mod")) {
		l.fail(file, "%s: %q is no module: there is no %s", path, named, l.rel(filepath.Join(dir, "go.mod")))
		return ""
	}
	return dir
}

// modules resolves those of binaries, which are the list at path of file.
func (l *loader) modules(file, path string, binaries []Binary) {
	for i := range binaries {
		if b := &binaries[i]; b.Debian == nil { // whose packages are of no module
			b.Dir = l.module(file, fmt.Sprintf("%s[%d].module", path, i), b.Module)
			if b.Absent != "" && b.Dir != "" && !isFile(filepath.Join(b.Dir, b.Absent)) {
				l.fail(file, "%s[%d].absent: there is no %s", path, i, l.rel(filepath.Join(b.Dir, b.Absent)))
			}
		}
	}
}

// rendered checks that what a component renders exists.
func (l *loader) rendered(file string, c Component) {
	check := func(field, folder, marker string) {
		if !filepath.IsLocal(filepath.FromSlash(folder)) {
			l.fail(file, "%s: %q leaves the component's folder; name a folder inside it", field, folder)
			return
		}
		if want := filepath.Join(c.Dir, folder, marker); !isFile(want) {
			l.fail(file, "%s: %q has no %s", field, folder, marker)
		}
	}
	if folder := c.Render.Kustomize; folder != "" {
		check("render.kustomize", folder, "kustomization.yaml")
	}
	if folder := c.Render.Chart; folder != "" {
		check("render.chart", folder, "Chart.yaml")
	}
	if _, err := os.Lstat(filepath.Join(c.Dir, FilesDir)); err == nil && len(c.Files) > 0 {
		l.fail(file, "files: the component has a folder %s too, which they would hide; name it otherwise", FilesDir)
	}
	if c.SmokeJob != nil {
		check("smokeJob.kustomize", c.SmokeJob.Kustomize, "kustomization.yaml")
	}
	if crds := c.Render.CRDs; crds != "" {
		if found, err := filepath.Glob(filepath.Join(c.Dir, crds, "*.yaml")); err != nil || len(found) == 0 || !filepath.IsLocal(filepath.FromSlash(crds)) {
			l.fail(file, "render.crds: %q is no folder of the component with *.yaml in it", crds)
		}
	}
}

func (l *loader) overlays() {
	for _, name := range l.folders(OverlayDir) {
		dir := filepath.Join(l.Root, OverlayDir, name)
		file := filepath.Join(dir, "overlay.yaml")
		var o Overlay
		if !l.read(file, &o) {
			continue
		}
		o.Dir = dir
		for _, p := range checkOverlay(o, name) {
			l.fail(file, "%s", p)
		}
		for i, c := range o.Components {
			if !isDir(filepath.Join(l.Root, BaseDir, c)) {
				l.fail(file, "components[%d]: there is no component %q; there are: %s", i, c, list(l.folders(BaseDir)))
			}
		}
		for _, name := range sortedKeys(o.Charts) {
			chart := o.Charts[name]
			chart.Dir = l.module(file, fmt.Sprintf("charts.%s.module", name), chart.Module)
			o.Charts[name] = chart
			if l.Components[name].Render.Chart != "" {
				l.fail(file, "charts.%s: the component renders a chart already, and values.yaml can be for one only", name)
			}
		}
		l.layers(o)
		l.Overlays[name] = o
	}
}

// layers refuses folders of an overlay that would never be looked at.
func (l *loader) layers(o Overlay) {
	for _, name := range l.folders(filepath.Join(OverlayDir, filepath.Base(o.Dir))) {
		dir := filepath.Join(o.Dir, name)
		kustomization, values := isFile(filepath.Join(dir, "kustomization.yaml")), isFile(filepath.Join(dir, "values.yaml"))
		if !kustomization && !values {
			continue // shared pieces, such as a Kustomize component
		}
		c, ok := l.Components[name]
		_, charted := o.Charts[name]
		switch {
		case !ok && !isDir(filepath.Join(l.Root, BaseDir, name)):
			l.fail(dir, "lies over a component that does not exist; there are: %s", list(l.folders(BaseDir)))
		case ok && kustomization && c.Render.Chart != "":
			l.fail(filepath.Join(dir, "kustomization.yaml"), "would never be used: %s renders a chart; put values.yaml here", name)
		case ok && values && !kustomization && !charted && c.Render.Kustomize != "":
			l.fail(filepath.Join(dir, "values.yaml"), "would never be used: %s renders with kustomize; put kustomization.yaml here", name)
		}
	}
}

func (l *loader) distribution() {
	file := filepath.Join(l.Root, DistributionFile)
	d := &l.Distribution
	if !l.read(file, d) {
		return
	}
	for _, p := range checkDistribution(*d) {
		l.fail(file, "%s", p)
	}
	l.modules(file, "binaries", d.Binaries)
	l.modules(file, "cni", d.CNI)
	l.modules(file, "sandbox.binaries", d.Sandbox.Binaries)
	for _, name := range sortedKeys(d.Networks) {
		at, n := "networks."+name, d.Networks[name]
		l.modules(file, at+".binaries", n.Binaries)
		l.modules(file, at+".cni", n.CNI)
		l.modules(file, at+".archives", n.Archives)
	}
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// list joins names for a message; "(none)" when there are none.
func list(names []string) string {
	if len(names) == 0 {
		return "(none)"
	}
	return strings.Join(names, ", ")
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
