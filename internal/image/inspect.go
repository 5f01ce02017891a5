package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/filelock"
)

// Inspection is everything in an image.
type Inspection struct {
	Built
	Platform   string              `json:"platform"`
	User       string              `json:"user"`
	Entrypoint []string            `json:"entrypoint"`
	Layers     []LayerInfo         `json:"layers"`
	Programs   []build.ProgramInfo `json:"programs"`
}

// LayerInfo is one layer.
type LayerInfo struct {
	Digest string     `json:"digest"`
	Size   int64      `json:"size"` // bytes, compressed
	Files  []FileInfo `json:"files"`
}

// FileInfo is one entry of a layer.
type FileInfo struct {
	Path   string `json:"path"`
	Type   string `json:"type"` // file | directory | link
	Mode   int64  `json:"mode"`
	Owner  string `json:"owner"` // UID:GID
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256,omitempty"`
	Link   string `json:"link,omitempty"`
}

// Inspect reads an image. Every file is hashed.
func (b *Builder) Inspect(ctx context.Context, img catalog.Image) (Inspection, error) {
	return b.inspect(ctx, img, func(l v1.Layer) (LayerInfo, error) { return inspectLayer(ctx, l) })
}

// Contents is Inspect by the lists of files that were noted, hashes and all, when the layers
// were packed: reading them again takes seconds for a large image.
func (b *Builder) Contents(ctx context.Context, img catalog.Image) (Inspection, error) {
	return b.inspect(ctx, img, func(l v1.Layer) (LayerInfo, error) {
		if info, ok := b.layout.notedFiles(l); ok {
			return info, nil
		}
		info, err := inspectLayer(ctx, l)
		if err == nil {
			_ = b.layout.noteFiles(info) // it only saves time
		}
		return info, err
	})
}

func (b *Builder) inspect(ctx context.Context, img catalog.Image, layerInfo func(v1.Layer) (LayerInfo, error)) (Inspection, error) {
	built, err := b.Image(ctx, img)
	if err != nil {
		return Inspection{}, err
	}
	fail := func(err error) (Inspection, error) {
		return Inspection{}, fmt.Errorf("inspect image %s: %w", img.Name, err)
	}
	unlock, err := b.layout.lock(ctx, filelock.Shared)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	in := Inspection{Built: built, Platform: b.Platform()}
	if err := in.read(built, layerInfo); err != nil {
		return fail(err)
	}
	for _, bin := range img.Programs() {
		p, err := b.Program(ctx, bin)
		if err != nil {
			return fail(err)
		}
		p.Path = "/" + bin.Name
		in.Programs = append(in.Programs, p)
	}
	return in, nil
}

// ReadImage is [Builder.Inspect] for an image that was not made here, but came in a bundle or
// from a registry: its programs are looked for among its files. Those that Go did not make are
// files only.
func ReadImage(ctx context.Context, built Built) (Inspection, error) {
	in := Inspection{Built: built, Platform: build.Platform()}
	fail := func(err error) (Inspection, error) {
		return Inspection{}, fmt.Errorf("inspect image %s: %w", built.Name, err)
	}
	tmp, err := os.MkdirTemp("", "orrery-inspect-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(tmp)
	err = in.read(built, func(l v1.Layer) (LayerInfo, error) {
		info, err := inspectLayer(ctx, l)
		if err != nil {
			return info, err
		}
		programs, err := programsOf(ctx, l, filepath.Join(tmp, "program"))
		in.Programs = append(in.Programs, programs...)
		return info, err
	})
	if err != nil {
		return fail(err)
	}
	return in, nil
}

// programsOf reads what Go wrote into the programs of a layer, each by way of the file tmp.
func programsOf(ctx context.Context, l v1.Layer, tmp string) (programs []build.ProgramInfo, err error) {
	r, err := openLayer(l)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return programs, nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return programs, err
		}
		if h.Typeflag != tar.TypeReg || h.Mode&0o111 == 0 {
			continue
		}
		if err := copyTo(tmp, r); err != nil {
			return programs, err
		}
		if p, err := build.ReadProgram(tmp); err == nil {
			p.Path = "/" + strings.TrimPrefix(h.Name, "./")
			programs = append(programs, p)
		}
	}
}

func copyTo(path string, r io.Reader) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// read fills in what the layout says of an image.
func (in *Inspection) read(built Built, layerInfo func(v1.Layer) (LayerInfo, error)) error {
	opened, err := built.open()
	if err != nil {
		return err
	}
	config, err := opened.ConfigFile()
	if err != nil {
		return err
	}
	in.User, in.Entrypoint = config.Config.User, config.Config.Entrypoint
	layers, err := opened.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		info, err := layerInfo(l)
		if err != nil {
			return err
		}
		in.Layers = append(in.Layers, info)
	}
	return nil
}

func (l layout) filesNote(digest string) string {
	return filepath.Join(l.dir, "files", strings.TrimPrefix(digest, "sha256:")+".json")
}

// noteFiles keeps the list of files of a layer.
func (l layout) noteFiles(info LayerInfo) error {
	data, err := json.Marshal(info)
	if err != nil {
		return err
	}
	return l.writeFile(l.filesNote(info.Digest), data)
}

// notedFiles is what was noted of a layer; false when nothing was, or it cannot be read.
func (l layout) notedFiles(of v1.Layer) (LayerInfo, bool) {
	var info LayerInfo
	digest, err := of.Digest()
	if err != nil {
		return info, false
	}
	data, err := os.ReadFile(l.filesNote(digest.String()))
	if err != nil || json.Unmarshal(data, &info) != nil {
		return info, false
	}
	return info, info.Digest == digest.String() && len(info.Files) > 0
}

func inspectLayer(ctx context.Context, l v1.Layer) (LayerInfo, error) {
	digest, err := l.Digest()
	if err != nil {
		return LayerInfo{}, err
	}
	info := LayerInfo{Digest: digest.String()}
	if info.Size, err = l.Size(); err != nil {
		return info, err
	}
	r, err := openLayer(l)
	if err != nil {
		return info, err
	}
	defer func() { _ = r.Close() }()
	info.Files, err = listFiles(ctx, r)
	return info, err
}

// tarReader is that of archive/tar, or around it.
type tarReader interface {
	io.Reader
	Next() (*tar.Header, error)
}

// listFiles hashes every file of a tar.
func listFiles(ctx context.Context, r tarReader) (files []FileInfo, err error) {
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return files, err
		}
		f := FileInfo{
			Path: "/" + strings.TrimSuffix(h.Name, "/"), Type: "file", Mode: h.Mode, Link: h.Linkname,
			Owner: fmt.Sprintf("%d:%d", h.Uid, h.Gid), Size: h.Size,
		}
		switch {
		case h.Linkname != "":
			f.Type = "link"
		case h.FileInfo().IsDir():
			f.Type = "directory"
		default:
			sum := sha256.New()
			if _, err := io.Copy(sum, r); err != nil {
				return files, err
			}
			f.SHA256 = hex.EncodeToString(sum.Sum(nil))
		}
		files = append(files, f)
	}
}

// ArchiveFiles lists and hashes the files of an archive, which is packed if it is not cached.
func (b *Builder) ArchiveFiles(ctx context.Context, bin catalog.Binary) ([]FileInfo, error) {
	path, err := b.Binary(ctx, bin)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	files, err := listFiles(ctx, tar.NewReader(f))
	if err != nil {
		return nil, fmt.Errorf("read archive %s: %w", bin.Name, err)
	}
	return files, nil
}
