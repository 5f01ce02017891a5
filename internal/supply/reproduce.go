package supply

import (
	"context"
	"io"
	"log/slog"
	"path/filepath"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/ui"
)

// Reproduction is how a second build compares with the first; its JSON is a contract.
type Reproduction struct {
	Image        string          `json:"image,omitempty"`
	Program      string          `json:"program,omitempty"`
	Digest       string          `json:"digest"`
	Again        string          `json:"again"` // digest of the second build
	Reproducible bool            `json:"reproducible"`
	Mismatch     *build.Mismatch `json:"mismatch,omitempty"`
	// Other circumstances of the second build, for people.
	Circumstances []string `json:"circumstances"`
}

// ReproduceImage builds an image, and again under other circumstances, and compares both.
// What the second build says goes to log.
func (s *Supply) ReproduceImage(ctx context.Context, img catalog.Image, log io.Writer) (Reproduction, error) {
	first, err := s.builder.Image(ctx, img)
	if err != nil {
		return Reproduction{}, err
	}
	r, err := s.reproduce(ctx, img.Name, false, first.Digest, log, func(again Rebuilt) (*build.Mismatch, error) {
		return image.Compare(first, image.Built{Name: "again", Version: again.Version, Digest: again.Digest, Layout: again.Layout})
	})
	r.Image = img.Name
	return r, err
}

// ReproduceProgram is ReproduceImage for a program of the nodes.
func (s *Supply) ReproduceProgram(ctx context.Context, bin catalog.Binary, log io.Writer) (Reproduction, error) {
	path, err := s.builder.Binary(ctx, bin)
	if err != nil {
		return Reproduction{}, err
	}
	first, err := s.builder.Describe(ctx, bin)
	if err != nil {
		return Reproduction{}, err
	}
	r, err := s.reproduce(ctx, bin.Name, true, "sha256:"+first.SHA256, log, func(again Rebuilt) (*build.Mismatch, error) {
		return build.CompareFiles(path, again.File)
	})
	r.Program = bin.Name
	return r, err
}

func (s *Supply) reproduce(
	ctx context.Context, name string, program bool, digest string, log io.Writer, compare func(Rebuilt) (*build.Mismatch, error),
) (Reproduction, error) {
	e, err := newOtherBuild(ctx, s)
	if err != nil {
		return Reproduction{}, err
	}
	defer e.remove()
	again, err := e.build(ctx, name, program, log)
	if err != nil {
		return Reproduction{}, err
	}
	r := Reproduction{Digest: digest, Again: again.Digest, Reproducible: digest == again.Digest, Circumstances: e.circumstances}
	if !r.Reproducible {
		r.Mismatch, err = compare(again)
	}
	return r, err
}

// Rebuilt is what the second build made.
type Rebuilt struct {
	Digest  string `json:"digest"`
	Version string `json:"version"`
	Layout  string `json:"layout,omitempty"` // of an image
	File    string `json:"file,omitempty"`   // of a program
}

// Rebuild is the second build, in a process of its own, with a cache of its own.
func Rebuild(ctx context.Context, cat *catalog.Catalog, name string, program bool, cacheDir string, sink ui.Sink, log *slog.Logger) (r Rebuilt, err error) {
	b, err := image.NewBuilder(build.Options{
		CacheDir: cacheDir, RepoRoot: cat.Root, Sink: sink, Log: log, Env: []string{"LANG=tr_TR.UTF-8", "LC_COLLATE=tr_TR.UTF-8"},
	})
	if err != nil {
		return r, err
	}
	s := &Supply{Catalog: cat, builder: b}
	if program {
		bin, err := s.NodeProgram(name)
		if err != nil {
			return r, err
		}
		if r.File, err = b.Binary(ctx, bin); err != nil {
			return r, err
		}
		d, err := b.Describe(ctx, bin)
		r.Digest, r.Version = "sha256:"+d.SHA256, bin.Version
		return r, err
	}
	img, err := s.All().Image(name)
	if err != nil {
		return r, err
	}
	built, err := b.Image(ctx, img)
	r.Digest, r.Version, r.Layout = built.Digest, built.Version, filepath.Clean(built.Layout)
	return r, err
}
