package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
)

// standIns is images.yaml.
type standIns struct {
	APIVersion string           `json:"apiVersion"`
	Kind       string           `json:"kind"`
	Debian     string           `json:"debian"` // the release whose packages are taken
	Images     []standIn        `json:"images"`
	Programs   []catalog.Binary `json:"programs"`
}

// standIn is an image that is made in place of one of the suite's.
type standIn struct {
	Name string `json:"name"`
	// For are repositories as the suite calls them.
	For []string `json:"for"`
	// Note says for people how it differs from the original.
	Note string `json:"note"`
	// Base is another one, whose layers it begins with.
	Base string `json:"base,omitempty"`
	// Programs are put at /NAME, those that Setuid names with that bit.
	Programs []string `json:"programs,omitempty"`
	Setuid   []string `json:"setuid,omitempty"`
	// Packages of Debian, with all that they need.
	Packages []string `json:"packages,omitempty"`
	// Applets links /bin/NAME to busybox for each of its commands that no package has.
	Applets bool `json:"applets,omitempty"`
	// Links are symbolic links: path to target.
	Links       map[string]string `json:"links,omitempty"`
	Directories []string          `json:"directories,omitempty"`
	// Files are those of the suite's module: path in the image to path in the module.
	Files  map[string]string `json:"files,omitempty"`
	Passwd []string          `json:"passwd,omitempty"` // lines besides root's
	Group  []string          `json:"group,omitempty"`
	User   string            `json:"user,omitempty"`
	// Entrypoint and Command as in a Dockerfile.
	Entrypoint []string `json:"entrypoint,omitempty"`
	Command    []string `json:"command,omitempty"`
}

// loadStandIns reads images.yaml.
func loadStandIns(file string) (standIns, error) {
	var s standIns
	data, err := os.ReadFile(file)
	if err != nil {
		return s, err
	}
	if errs := catalog.Decode(data, &s); len(errs) > 0 {
		return s, fmt.Errorf("%s: %w", file, errors.Join(errs...))
	}
	var errs []error
	for i, img := range s.Images {
		if img.Base != "" && !slices.ContainsFunc(s.Images[:i], func(b standIn) bool { return b.Name == img.Base }) {
			errs = append(errs, fmt.Errorf("images[%d].base: no image %q stands before it", i, img.Base))
		}
		for _, p := range img.Programs {
			if _, ok := s.program(p); !ok {
				errs = append(errs, fmt.Errorf("images[%d].programs: no program %q", i, p))
			}
		}
	}
	if len(errs) > 0 {
		return s, fmt.Errorf("%s: %w", file, errors.Join(errs...))
	}
	return s, nil
}

func (s standIns) program(name string) (catalog.Binary, bool) {
	i := slices.IndexFunc(s.Programs, func(b catalog.Binary) bool { return b.Name == name })
	if i < 0 {
		return catalog.Binary{}, false
	}
	return s.Programs[i], true
}

// stoodIn is an image of the suite and what was made in its place.
type stoodIn struct {
	Image  string `json:"image"` // as the suite calls it
	Name   string `json:"name,omitempty"`
	Note   string `json:"note,omitempty"`
	Digest string `json:"digest,omitempty"`
	layout string // folder that holds it; "" when there is none
}

// standIns makes what stands in for the suite's images.
func (r *runner) standIns(ctx context.Context) ([]stoodIn, error) {
	list, err := exec.CommandContext(ctx, r.programs.tests, "--list-images").Output()
	if err != nil {
		return nil, fmt.Errorf("ask the tests for their images: %w", err)
	}
	spec, err := loadStandIns(filepath.Join(r.repo, "test", "conformance", "images.yaml"))
	if err != nil {
		return nil, err
	}
	names := strings.Fields(string(list))
	slices.Sort(names)
	r.say("making stand-ins for the images of the tests")
	b := &imageBuilder{
		builder: r.programs.builder, spec: spec, dir: filepath.Join(r.dir, "images"), made: map[string]v1.Image{},
		debian: debian{filepath.Join(r.cache, "conformance", "debian"), spec.Debian, debianKeyring},
		module: moduleDir(ctx, filepath.Join(r.repo, strings.TrimPrefix(suiteModule, "//"))),
	}
	if err := b.debian.open(ctx); err != nil {
		return nil, err
	}
	var all []stoodIn
	for _, name := range names {
		repository, _, _ := strings.Cut(name, ":")
		in := stoodIn{Image: name}
		for _, s := range spec.Images {
			if !slices.Contains(s.For, repository) {
				continue
			}
			img, err := b.build(ctx, s)
			if err != nil {
				return nil, fmt.Errorf("image %s: %w", s.Name, err)
			}
			digest, err := img.Digest()
			if err != nil {
				return nil, err
			}
			in.Name, in.Note, in.Digest, in.layout = s.Name, s.Note, digest.String(), filepath.Join(b.dir, s.Name)
		}
		all = append(all, in)
	}
	return all, nil
}

// moduleDir is where the Go command keeps the suite's module; "" when it does not say.
func moduleDir(ctx context.Context, suite string) string {
	cmd := exec.CommandContext(ctx, "go", "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes")
	cmd.Dir = suite
	out, _ := cmd.Output()
	return strings.TrimSpace(string(out))
}

// imageBuilder makes images.
type imageBuilder struct {
	builder *image.Builder
	spec    standIns
	debian  debian
	dir     string // where they go
	module  string // of the suite
	made    map[string]v1.Image
}

// build makes one image, once, as an OCI layout in b.dir/NAME.
func (b *imageBuilder) build(ctx context.Context, s standIn) (v1.Image, error) {
	if img := b.made[s.Name]; img != nil {
		return img, nil
	}
	img := mutate.MediaType(empty.Image, "application/vnd.oci.image.manifest.v1+json")
	if s.Base != "" {
		img = b.made[s.Base] // it stands before
		if img == nil {
			return nil, fmt.Errorf("its base %s is not made", s.Base)
		}
	}
	layers, err := b.layers(ctx, s)
	if err != nil {
		return nil, err
	}
	if img, err = mutate.AppendLayers(img, layers...); err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", strings.TrimPrefix(b.builder.Platform(), "linux/")
	config.Config = v1.Config{
		User: s.User, Entrypoint: s.Entrypoint, Cmd: s.Command, WorkingDir: "/",
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/"},
	}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return nil, err
	}
	to, err := layout.Write(filepath.Join(b.dir, s.Name), empty.Index)
	if err != nil {
		return nil, err
	}
	b.made[s.Name] = img
	return img, to.AppendImage(img)
}
