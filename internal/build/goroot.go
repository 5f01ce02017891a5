package build

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/dirhash"

	"github.com/orrery-dev/orrery/internal/atomicfile"
)

// Toolchain is the Go that compiles.
type Toolchain struct {
	Version string `json:"version"` // "go1.26.8"
	// Sum is the "h1:" hash, as in go.sum, over the files that make binaries: VERSION,
	// bin/go, pkg/include, pkg/tool and src, without tests.
	Sum string `json:"sum"`
}

// Toolchain hashes the installed Go, once. That reads about 100 MB, so the result is kept in
// the cache as long as its commands have the size and time that they had. Where no Go is
// installed, it is the last one.
func (b *Builder) Toolchain(ctx context.Context) (Toolchain, error) {
	b.hashing.Lock()
	defer b.hashing.Unlock()
	if b.hashed.Sum == "" {
		var err error
		if b.hashed, err = b.hashToolchain(ctx); err != nil {
			return Toolchain{}, err
		}
	}
	return b.hashed, nil
}

func (b *Builder) hashToolchain(ctx context.Context) (Toolchain, error) {
	fail := func(err error) (Toolchain, error) { return Toolchain{}, fmt.Errorf("hash the Go toolchain: %w", err) }
	b.mu.Lock()
	tc := b.go_
	b.mu.Unlock()
	if tc == nil {
		var err error
		if tc, err = findToolchain(ctx, ""); err != nil {
			if last := b.readToolchain(); noGo(err) && last.Sum != "" {
				return last.Toolchain, nil
			}
			return Toolchain{}, err
		}
	}
	root := tc.root
	stamp, err := stampOf(root, tc.tools)
	if err != nil {
		return fail(err)
	}
	kept := b.readToolchain()
	if kept.Version == tc.version && kept.Sum != "" && slices.Equal(kept.Stamp, stamp) {
		return kept.Toolchain, nil
	}
	kept.Version, kept.Stamp = tc.version, stamp
	if kept.Sum, err = hashToolchain(ctx, root); err != nil {
		return fail(err)
	}
	data, err := json.MarshalIndent(kept, "", "  ")
	if err != nil {
		return fail(err)
	}
	// It only saves time the next time.
	_ = atomicfile.Replace(b.toolchainFile(), func(tmp string) error { return os.WriteFile(tmp, data, 0o644) })
	return kept.Toolchain, nil
}

// keptToolchain is the Go that compiled last, and how it is known again.
type keptToolchain struct {
	Toolchain
	Stamp []string `json:"stamp"`
}

func (b *Builder) toolchainFile() string { return filepath.Join(b.opts.CacheDir, "toolchain.json") }

// readToolchain is zero when nothing was kept, or nothing that can be read.
func (b *Builder) readToolchain() keptToolchain {
	var kept keptToolchain
	if data, err := os.ReadFile(b.toolchainFile()); err != nil || json.Unmarshal(data, &kept) != nil {
		return keptToolchain{}
	}
	return kept
}

// stampOf tells whether a toolchain was exchanged, without reading all of it.
func stampOf(root, tools string) ([]string, error) {
	var stamp []string
	for _, path := range []string{
		filepath.Join(root, "VERSION"), filepath.Join(root, "bin", "go"), filepath.Join(root, "src", "runtime"),
		filepath.Join(tools, "compile"), filepath.Join(tools, "link"), filepath.Join(tools, "asm"),
	} {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		stamp = append(stamp, fmt.Sprintf("%s %d %d", path, info.Size(), info.ModTime().UnixNano()))
	}
	return stamp, nil
}

func hashToolchain(ctx context.Context, root string) (string, error) {
	files := []string{"VERSION", "bin/go"}
	for _, sub := range []string{"pkg/include", "pkg/tool", "src"} {
		err := filepath.WalkDir(filepath.Join(root, filepath.FromSlash(sub)), func(path string, d fs.DirEntry, err error) error {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return err
			}
			if d.IsDir() && d.Name() == "testdata" {
				return filepath.SkipDir
			}
			if !d.Type().IsRegular() || strings.HasSuffix(d.Name(), "_test.go") {
				return nil
			}
			rel, err := filepath.Rel(root, path)
			files = append(files, filepath.ToSlash(rel))
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return dirhash.Hash1(files, func(name string) (io.ReadCloser, error) {
		return os.Open(filepath.Join(root, filepath.FromSlash(name)))
	})
}
