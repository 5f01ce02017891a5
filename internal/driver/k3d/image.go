package k3d

import (
	"archive/tar"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/driver"
)

// file of an image.
type file struct {
	name    string // without a leading slash
	mode    int64
	link    string // target of a symbolic link
	content []byte // of a small file that is made here
	from    string // or where it is
	size    int64
	folder  bool
}

// layer of an image, in the order of names.
type layer []file

// tree is the layer of everything below a folder, at a place in the image. Owners, times and what a umask
// left of modes are not the image's: it is the same wherever it is made.
func tree(from, at string) (layer, error) {
	var l layer
	err := filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		name := path.Join(at, filepath.ToSlash(rel))
		if name == "." || name == at && rel == "." {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch f := (file{name: name, mode: 0o644}); {
		case d.IsDir():
			f.folder, f.mode = true, 0o755
			l = append(l, f)
		case info.Mode()&fs.ModeSymlink != 0:
			f.mode = 0o777
			if f.link, err = os.Readlink(p); err != nil {
				return err
			}
			l = append(l, f)
		case info.Mode().IsRegular():
			if f.from, f.size = p, info.Size(); info.Mode()&0o100 != 0 {
				f.mode = 0o755
			}
			l = append(l, f)
		}
		return nil
	})
	return l, err
}

// write is the layer as a tar archive.
func (l layer) write(w io.Writer) error {
	t := tar.NewWriter(w)
	sorted := slices.Clone(l)
	slices.SortFunc(sorted, func(a, b file) int { return cmp.Compare(a.name, b.name) })
	for _, f := range sorted {
		h := &tar.Header{Name: f.name, Mode: f.mode, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		switch {
		case f.folder:
			h.Typeflag, h.Name = tar.TypeDir, f.name+"/"
		case f.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.link
		case f.from != "":
			h.Typeflag, h.Size = tar.TypeReg, f.size
		default:
			h.Typeflag, h.Size = tar.TypeReg, int64(len(f.content))
		}
		if err := t.WriteHeader(h); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if err := f.copyTo(t); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return t.Close()
}

func (f file) copyTo(w io.Writer) error {
	if f.from == "" {
		_, err := w.Write(f.content)
		return err
	}
	in, err := os.Open(f.from)
	if err != nil {
		return err
	}
	defer in.Close()
	_, err = io.Copy(w, in)
	return err
}

// image that an engine can load.
type image struct {
	name     string // repository
	layers   []layer
	config   containerConfig
	os, arch string

	sums  []string // of the layers
	sizes []int64
}

// containerConfig is how a container of an image runs, as images have it.
type containerConfig struct {
	Entrypoint []string            `json:"Entrypoint,omitempty"`
	Cmd        []string            `json:"Cmd,omitempty"`
	Env        []string            `json:"Env,omitempty"`
	WorkingDir string              `json:"WorkingDir,omitempty"`
	Volumes    map[string]struct{} `json:"Volumes,omitempty"`
	StopSignal string              `json:"StopSignal,omitempty"`
}

// counter counts what is written.
type counter struct{ n int64 }

func (c *counter) Write(b []byte) (int, error) { c.n += int64(len(b)); return len(b), nil }

// measure finds out what the layers are. It reads everything once.
func (i *image) measure() error {
	if i.sums != nil {
		return nil
	}
	for _, l := range i.layers {
		sum, size := sha256.New(), &counter{}
		if err := l.write(io.MultiWriter(sum, size)); err != nil {
			return fmt.Errorf("image %s: %w", i.name, err)
		}
		i.sums, i.sizes = append(i.sums, hex.EncodeToString(sum.Sum(nil))), append(i.sizes, size.n)
	}
	return nil
}

// configuration is the image's, whose digest is its identity for an engine.
func (i *image) configuration() ([]byte, error) {
	if err := i.measure(); err != nil {
		return nil, err
	}
	type rootfs struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	}
	r := rootfs{Type: "layers"}
	for _, s := range i.sums {
		r.DiffIDs = append(r.DiffIDs, "sha256:"+s)
	}
	return json.Marshal(struct {
		Architecture string          `json:"architecture"`
		OS           string          `json:"os"`
		Created      time.Time       `json:"created"`
		Config       containerConfig `json:"config"`
		RootFS       rootfs          `json:"rootfs"`
	}{i.arch, i.os, time.Unix(0, 0).UTC(), i.config, r})
}

// tag is the name with what is in it, so that no other image has it.
func (i *image) tag() (string, error) {
	b, err := i.configuration()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return i.name + ":" + hex.EncodeToString(sum[:6]), nil
}

// save writes the image as engines load it.
func (i *image) save(w io.Writer) error {
	config, err := i.configuration()
	if err != nil {
		return err
	}
	tag, err := i.tag()
	if err != nil {
		return err
	}
	sum := sha256.Sum256(config)
	configName := hex.EncodeToString(sum[:]) + ".json"
	t := tar.NewWriter(w)
	head := func(name string, size int64) error {
		return t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)})
	}
	var names []string
	seen := map[string]bool{}
	for n, l := range i.layers {
		name := i.sums[n] + "/layer.tar"
		if names = append(names, name); seen[name] {
			continue
		}
		seen[name] = true
		if err := head(name, i.sizes[n]); err != nil {
			return err
		}
		if err := l.write(t); err != nil {
			return err
		}
	}
	manifest, err := json.Marshal([]struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{{configName, []string{tag}, names}})
	if err != nil {
		return err
	}
	for _, f := range []file{{name: configName, content: config}, {name: "manifest.json", content: manifest}} {
		if err := head(f.name, int64(len(f.content))); err != nil {
			return err
		}
		if _, err := t.Write(f.content); err != nil {
			return err
		}
	}
	return t.Close()
}

// applets of busybox that k3d's entry point and its commands in a node run, and the kubelet.
var applets = strings.Fields(
	"sh ash cat cp date echo env grep head hostname id kill ln ls mkdir mount mv ps rm sed sleep sort tail test touch umount uname wc xargs",
)

// loaders of dynamic programs, where these look for them.
var loaders = map[string]string{"amd64": "lib64/ld-linux-x86-64.so.2", "arm64": "lib/ld-linux-aarch64.so.1"}

// nodeImage is what all nodes run: programs of the distribution, among them what k3d starts, and the
// few of Debian's that they run themselves.
func nodeImage(dist driver.Dist, arch string) (*image, error) {
	var base layer
	for _, from := range [][2]string{{"busybox/bin", "bin"}, {"busybox/doc", "usr/share/doc"}, {"nft/bin", "usr/sbin"}, {"nft/lib", "lib"}, {"nft/doc", "usr/share/doc"}} {
		files, err := tree(dist.Unpacked(from[0]), from[1])
		if err != nil {
			return nil, fmt.Errorf("the node distribution lacks %s: 'orrery up' makes it: %w", from[0], err)
		}
		base = append(base, files...)
	}
	for _, f := range slices.Clone(base) {
		if strings.HasPrefix(f.name, "lib/ld-linux") { // programs ask for it where their architecture has it
			base = append(base, file{name: loaders[arch], mode: 0o777, link: "/" + f.name})
		}
	}
	for _, a := range applets {
		base = append(base, file{name: "bin/" + a, mode: 0o777, link: "busybox"})
	}
	for name, target := range map[string]string{"bin/k3s": "/opt/orrery/bin/k3s", "bin/kubectl": "/opt/orrery/bin/kubectl", "bin/ctr": "/opt/orrery/bin/ctr"} {
		base = append(base, file{name: name, mode: 0o777, link: target})
	}
	for _, d := range []string{"etc", "opt", "output", "proc", "root", "run", "sys", "tmp", "dev", "var", "var/lib", "var/log", "k3d", "k3d/images"} {
		base = append(base, file{name: d, mode: 0o755, folder: true})
	}
	for name, content := range map[string]string{
		"etc/passwd":        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n",
		"etc/group":         "root:x:0:\nnogroup:x:65534:\n",
		"etc/nsswitch.conf": "hosts: files dns\n",
		"etc/os-release":    "NAME=Orrery\nID=orrery\nPRETTY_NAME=\"Orrery node\"\n",
		"etc/protocols":     "tcp 6 TCP\nudp 17 UDP\n",
	} {
		base = append(base, file{name: name, mode: 0o644, content: []byte(content)})
	}
	base = slices.CompactFunc(sortLayer(base), func(a, b file) bool { return a.name == b.name })
	node, err := tree(filepath.Join(string(dist), "bin"), "opt/orrery/bin")
	if err != nil {
		return nil, err
	}
	return &image{
		name: "orrery/node", os: "linux", arch: arch, layers: []layer{base, node},
		config: containerConfig{
			Entrypoint: []string{"/bin/k3s"}, Cmd: []string{"agent"}, StopSignal: "SIGTERM",
			Env: []string{
				"PATH=/opt/orrery/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
				"CONTAINERD_NAMESPACE=k8s.io", "CONTAINERD_ADDRESS=/run/containerd/containerd.sock",
			},
			// Nothing that containers stack on may be on a stack itself.
			Volumes: map[string]struct{}{"/var/lib": {}, "/var/log": {}},
		},
	}, nil
}

func sortLayer(l layer) layer {
	slices.SortStableFunc(l, func(a, b file) int { return cmp.Compare(a.name, b.name) })
	return l
}

// helperImage runs the program that k3d starts in nodes as something else: k3d's load balancer or
// its tools, or the mirror, which has the registry beside it.
func helperImage(what, arch string, programs ...string) (*image, error) {
	l := layer{
		{name: "tmp", mode: 0o1777, folder: true},
		{name: "etc/confd", mode: 0o755, folder: true},
		{name: "var/lib/registry", mode: 0o755, folder: true},
	}
	for _, p := range programs {
		info, err := os.Stat(p)
		if err != nil {
			return nil, err
		}
		l = append(l, file{name: filepath.Base(p), mode: 0o755, from: p, size: info.Size()})
	}
	i := &image{
		name: "orrery/" + what, os: "linux", arch: arch, layers: []layer{l},
		config: containerConfig{Entrypoint: []string{"/k3s", what}, WorkingDir: "/"},
	}
	if what == "mirror" {
		i.config.Volumes = map[string]struct{}{"/var/lib/registry": {}}
	}
	return i, nil
}
