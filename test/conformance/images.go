package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/orrery-dev/orrery/internal/apt"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/filelock"
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
	// Sets are those of the cases that need it; without, all do.
	Sets []string `json:"sets,omitempty"`
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
		for _, set := range img.Sets {
			if sets[set] == "" {
				errs = append(errs, fmt.Errorf("images[%d].sets: no set %q", i, set))
			}
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
		builder: r.programs.builder, spec: spec, dir: filepath.Join(r.cache, "conformance", "images"), made: map[string]made{},
		module: moduleDir(ctx, filepath.Join(r.repo, strings.TrimPrefix(suiteModule, "//"))),
	}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return nil, err
	}
	lock, err := filelock.Wait(ctx, b.dir+".lock", filelock.Exclusive, func() { r.say("another process is making them") })
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if b.debian, err = apt.Open(ctx, filepath.Join(r.cache, "conformance", "debian"), spec.Debian, b.arch()); err != nil {
		return nil, fmt.Errorf("the images of the tests are made of Debian packages: %w", err)
	}
	var all []stoodIn
	for _, name := range names {
		repository, _, _ := strings.Cut(name, ":")
		in := stoodIn{Image: name}
		for _, s := range spec.Images {
			if !slices.Contains(s.For, repository) || r.focus == "" && len(s.Sets) > 0 && !slices.Contains(s.Sets, r.set) {
				continue
			}
			m, err := b.build(ctx, s)
			if err != nil {
				return nil, fmt.Errorf("image %s: %w", s.Name, err)
			}
			in.Name, in.Note, in.Digest, in.layout = s.Name, s.Note, m.digest, m.layout
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

// imageBuilder makes images, and keeps them in the cache by a key of what they are made of.
type imageBuilder struct {
	builder *image.Builder
	spec    standIns
	debian  *apt.Index
	dir     string // where they go
	module  string // of the suite
	made    map[string]made
}

func (b *imageBuilder) arch() string { return strings.TrimPrefix(b.builder.Platform(), "linux/") }

type made struct{ key, layout, digest string }

// build makes one image, as an OCI layout.
func (b *imageBuilder) build(ctx context.Context, s standIn) (made, error) {
	if m, ok := b.made[s.Name]; ok {
		return m, nil
	}
	packages, err := b.debian.Fetch(ctx, s.Packages...)
	if err != nil {
		return made{}, err
	}
	key, err := b.key(ctx, s, packages)
	if err != nil {
		return made{}, err
	}
	m := made{key: key, layout: filepath.Join(b.dir, s.Name+"-"+key[:16])}
	if _, err := os.Stat(m.layout); errors.Is(err, fs.ErrNotExist) {
		err = b.assemble(ctx, s, packages, m.layout)
		if err != nil {
			return m, err
		}
	}
	index, err := layout.ImageIndexFromPath(m.layout)
	if err != nil {
		return m, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return m, err
	}
	m.digest = manifest.Manifests[0].Digest.String()
	b.made[s.Name] = m
	return m, nil
}

// format is part of every key. Raise it when the same is to become other bytes.
const format = "1"

func (b *imageBuilder) key(ctx context.Context, s standIn, packages []apt.File) (string, error) {
	h := sha256.New()
	s.Sets, s.Note, s.For = nil, "", nil // which say nothing of the image
	description, err := json.Marshal(s)  //nolint:gosec // the file /etc/passwd of an image, without a password
	if err != nil {
		return "", err
	}
	// Versions decide what the files of the module are.
	fmt.Fprintf(h, "%s\n%s\n%s\n%s\n", format, description, b.made[s.Base].key, filepath.Base(b.module))
	for _, p := range packages {
		fmt.Fprintf(h, "%s %s\n", p.Name, p.Version)
	}
	for _, name := range s.Programs {
		bin, _ := b.spec.program(name)
		key, err := b.builder.Key(ctx, bin)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(h, name, key)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// assemble writes the image to a folder, which is there when it is whole.
func (b *imageBuilder) assemble(ctx context.Context, s standIn, packages []apt.File, to string) error {
	work, err := os.MkdirTemp(b.dir, ".making-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	if s.Base != "" {
		base := b.made[s.Base] // it stands before
		digest, err := v1.NewHash(base.digest)
		if err != nil {
			return err
		}
		if img, err = layout.Path(base.layout).Image(digest); err != nil {
			return err
		}
	}
	layers, err := b.layers(ctx, s, packages, work)
	if err != nil {
		return err
	}
	if img, err = mutate.AppendLayers(img, layers...); err != nil {
		return err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", b.arch()
	config.Config = v1.Config{
		User: s.User, Entrypoint: s.Entrypoint, Cmd: s.Command, WorkingDir: "/",
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/"},
	}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return err
	}
	result, err := layout.Write(filepath.Join(work, "layout"), empty.Index)
	if err != nil {
		return err
	}
	if err := result.AppendImage(img); err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(b.dir, s.Name+"-*"))
	if err != nil {
		return err
	}
	for _, o := range old {
		if err := os.RemoveAll(o); err != nil {
			return err
		}
	}
	return os.Rename(filepath.Join(work, "layout"), to)
}
