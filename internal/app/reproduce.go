package app

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newImagesReproduce(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "reproduce IMAGE",
		Short: "Build an image again under other circumstances and compare it byte for byte",
		Long: `Build an image a second time: from a copy of the repository in another folder, with
empty caches, another umask, time zone and locale. Then compare. Exit status 1 when a
byte differs; the first such file and offset are named. It takes as long as a first
build and leaves nothing behind.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.completeImages,
		RunE:              func(c *cobra.Command, args []string) error { return reproduce(c.Context(), o, args[0]) },
	}
}

// reproduction is what `images reproduce -o json` prints; its form is a contract.
type reproduction struct {
	Image        string          `json:"image"`
	Digest       string          `json:"digest"`
	Again        string          `json:"again"` // digest of the second build
	Reproducible bool            `json:"reproducible"`
	Mismatch     *image.Mismatch `json:"mismatch,omitempty"`
}

func reproduce(ctx context.Context, o *options, name string) error {
	asJSON, err := o.wantJSON()
	if err != nil {
		return err
	}
	w, img, err := o.builtImage(ctx, name)
	if err != nil {
		return err
	}
	first, err := w.builder.Image(ctx, img)
	if err != nil {
		return err
	}
	// Not beside the catalogue, and with a path of another length.
	dir, err := os.MkdirTemp("", "orrery-reproduce-elsewhere-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	copied := filepath.Join(dir, "copy", "of", "the", "repository")
	if err := copySource(ctx, w.catalog.Root, copied); err != nil {
		return fmt.Errorf("copy the repository: %w", err)
	}
	second, err := buildElsewhere(ctx, o, name, copied, filepath.Join(dir, "cache"))
	if err != nil {
		return err
	}
	r := reproduction{Image: name, Digest: first.Digest, Again: second.Digest, Reproducible: first.Digest == second.Digest}
	if r.Mismatch, err = image.Compare(first, second); err != nil {
		return err
	}
	switch {
	case asJSON:
		err = printJSON(o.out, r)
	case r.Reproducible:
		_, err = fmt.Fprintf(o.out, "%s is reproducible: %s both times\n", name, r.Digest)
	default:
		_, err = fmt.Fprintf(o.out, "%s is not reproducible: %s, then %s\nfirst difference: %s\n", name, r.Digest, r.Again, r.Mismatch)
	}
	if err == nil && !r.Reproducible {
		return exitError(exitFailed)
	}
	return err
}

// buildElsewhere builds the image of that name out of another repository and cache.
func buildElsewhere(ctx context.Context, o *options, name, root, cache string) (image.Built, error) {
	cat, err := catalog.Load(root)
	if err != nil {
		return image.Built{}, err
	}
	sink := ui.Choose(o.err, true, false)
	defer sink.Close()
	b, err := image.NewBuilder(image.Options{
		CacheDir: cache, RepoRoot: cat.Root, Sink: sink, Log: o.logger(),
		Env: []string{"TZ=Asia/Kathmandu", "LANG=tr_TR.UTF-8", "LC_COLLATE=tr_TR.UTF-8"},
	})
	if err != nil {
		return image.Built{}, err
	}
	w := &workshop{catalog: cat, images: map[string]catalog.Image{cat.Distribution.Sandbox.Name: cat.Distribution.Sandbox}}
	for _, c := range cat.Components {
		for _, img := range c.Images {
			w.images[img.Name] = img
		}
	}
	img, err := w.image(name)
	if err != nil {
		return image.Built{}, err
	}
	old := syscall.Umask(0o077) // of this process and the compilers that it starts
	defer syscall.Umask(old)
	return b.Image(ctx, img)
}

// copySource copies a repository without what is hidden (version control, editors) and
// without what is not a file or folder. Every file gets a new time.
func copySource(ctx context.Context, from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case d.IsDir() && rel != "." && strings.HasPrefix(d.Name(), "."):
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(target, 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		src, err := os.Open(path)
		if err != nil {
			return err
		}
		defer src.Close()
		dst, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return err
		}
		if _, err := io.Copy(dst, src); err != nil {
			dst.Close()
			return err
		}
		return dst.Close()
	})
}
