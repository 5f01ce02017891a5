package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/compression"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/orrery-dev/orrery/internal/apt"
)

// tree is what a layer holds, by name without a leading slash.
type tree map[string]entry

type entry struct {
	mode int64
	kind byte // tar.TypeReg, TypeDir, TypeSymlink or TypeLink
	link string
	data []byte
	file string // on this machine, in place of data
	uid  int
	gid  int
}

// layers are Debian's packages, then a layer for each program, then the rest.
func (b *imageBuilder) layers(ctx context.Context, s standIn, packages []apt.File, work string) ([]v1.Layer, error) {
	var trees []tree
	if s.Base == "" {
		system, err := b.system(ctx, s, packages)
		if err != nil {
			return nil, err
		}
		trees = append(trees, system)
	}
	for _, name := range s.Programs {
		bin, _ := b.spec.program(name)
		file, err := b.builder.Binary(ctx, bin)
		if err != nil {
			return nil, err
		}
		mode := int64(0o755)
		if slices.Contains(s.Setuid, name) {
			mode |= 0o4000
		}
		trees = append(trees, tree{name: {mode: mode, kind: tar.TypeReg, file: file}})
	}
	rest := tree{}
	for _, d := range s.Directories {
		rest[strings.TrimPrefix(d, "/")] = entry{mode: 0o777, kind: tar.TypeDir}
	}
	for to, from := range s.Files {
		data, err := os.ReadFile(filepath.Join(b.module, filepath.FromSlash(from)))
		if err != nil {
			return nil, fmt.Errorf("a file of the suite's module: %w", err)
		}
		rest[strings.TrimPrefix(to, "/")] = entry{mode: 0o644, kind: tar.TypeReg, data: data}
	}
	for from, to := range s.Links {
		rest[merged(from)] = entry{mode: 0o777, kind: tar.TypeSymlink, link: to}
	}
	if len(rest) > 0 {
		trees = append(trees, rest)
	}
	var layers []v1.Layer
	for i, t := range trees {
		l, err := t.layer(filepath.Join(work, fmt.Sprintf("layer-%d.tar", i)))
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	return layers, nil
}

// system is the file system below the programs: users, links into /usr, packages, applets.
func (b *imageBuilder) system(ctx context.Context, s standIn, packages []apt.File) (tree, error) {
	lines := func(l ...string) []byte { return []byte(strings.Join(l, "\n") + "\n") }
	t := tree{
		"etc/passwd":        {mode: 0o644, kind: tar.TypeReg, data: lines(append([]string{"root:x:0:0:root:/root:/bin/sh"}, s.Passwd...)...)},
		"etc/group":         {mode: 0o644, kind: tar.TypeReg, data: lines(append([]string{"root:x:0:"}, s.Group...)...)},
		"etc/nsswitch.conf": {mode: 0o644, kind: tar.TypeReg, data: lines("passwd: files", "group: files", "hosts: files dns")},
		"root":              {mode: 0o700, kind: tar.TypeDir},
		"tmp":               {mode: 0o1777, kind: tar.TypeDir},
		"var/tmp":           {mode: 0o1777, kind: tar.TypeDir},
	}
	for _, d := range []string{"dev", "proc", "sys", "home", "mnt", "run"} {
		t[d] = entry{mode: 0o755, kind: tar.TypeDir}
	}
	for _, d := range mergedDirs {
		t[d] = entry{mode: 0o777, kind: tar.TypeSymlink, link: "usr/" + d}
		t["usr/"+d] = entry{mode: 0o755, kind: tar.TypeDir}
	}
	for _, p := range packages {
		err := unpack(ctx, p, func(h *tar.Header, r io.Reader) error {
			data, err := io.ReadAll(r)
			t[h.Name] = entry{mode: h.Mode, kind: h.Typeflag, link: h.Linkname, data: data, uid: h.Uid, gid: h.Gid}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if s.Applets {
		return t, t.applets(ctx)
	}
	return t, nil
}

// applets links to busybox each of its commands that the tree does not have.
func (t tree) applets(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "orrery-applets-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "busybox") // it is what it is called
	if err := os.WriteFile(program, t["usr/bin/busybox"].data, 0o755); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, program, "--list").Output()
	if err != nil {
		return fmt.Errorf("ask busybox for its commands: %w", err)
	}
	for _, name := range strings.Fields(string(out)) {
		if _, ok := t["usr/sbin/"+name]; ok {
			continue
		}
		if _, ok := t["usr/bin/"+name]; !ok {
			t["usr/bin/"+name] = entry{mode: 0o777, kind: tar.TypeSymlink, link: "busybox"}
		}
	}
	return nil
}

// layer packs the tree; file is a place for it until the image is written.
func (t tree) layer(file string) (v1.Layer, error) {
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	if err := t.write(w); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromFile(file, tarball.WithCompression(compression.ZStd), tarball.WithCompressionLevel(1),
		tarball.WithMediaType(types.OCILayerZStd), tarball.WithCompressedCaching)
}

func (t tree) write(w *tar.Writer) error {
	// Folders above a file; a hard link after its target.
	for _, name := range slices.Collect(maps.Keys(t)) {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := t[dir]; !ok {
				t[dir] = entry{mode: 0o755, kind: tar.TypeDir}
			}
		}
	}
	rank := func(e entry) int {
		if e.kind == tar.TypeLink {
			return 1
		}
		return 0
	}
	names := slices.SortedFunc(maps.Keys(t), func(a, b string) int {
		return cmp.Or(cmp.Compare(rank(t[a]), rank(t[b])), cmp.Compare(a, b))
	})
	for _, name := range names {
		e := t[name]
		data := io.Reader(bytes.NewReader(e.data))
		size := int64(len(e.data))
		if e.file != "" {
			f, err := os.Open(e.file)
			if err != nil {
				return err
			}
			defer f.Close()
			info, err := f.Stat()
			if err != nil {
				return err
			}
			data, size = f, info.Size()
		}
		h := &tar.Header{
			Name: name, Mode: e.mode, Typeflag: e.kind, Linkname: e.link, Size: size, Uid: e.uid, Gid: e.gid,
			ModTime: time.Unix(0, 0), Format: tar.FormatPAX,
		}
		if e.kind == tar.TypeDir {
			h.Name += "/"
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(w, data); err != nil {
			return err
		}
	}
	return nil
}
