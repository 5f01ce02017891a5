package apt

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/proc"
)

// Index is what Debian's archive has of a release, for who wants packages with all that they
// need and of whatever version it is today. What is to be the same tomorrow is for [Fetch].
type Index struct {
	dir string
	env []string
}

// File is a package that was fetched.
type File struct {
	Package
	Path string
}

// indexAge is how old an index may be: the archive keeps what it names for longer.
const indexAge = 24 * time.Hour

// Open reads the archive's index of a release ("trixie") into a folder below dir, which is
// made if needed and kept for the next time, unless that was done within the last day. Only
// one process may use the folder at a time.
func Open(ctx context.Context, dir, suite, arch string) (*Index, error) {
	if err := Available(); err != nil {
		return nil, err
	}
	dir = filepath.Join(dir, suite+"-"+arch)
	env, err := settings(ctx, dir, archives(Request{Suite: suite, Arch: arch})[0], arch)
	if err != nil {
		return nil, err
	}
	i := &Index{dir: dir, env: env}
	read := filepath.Join(dir, "updated")
	if info, err := os.Stat(read); err == nil && time.Since(info.ModTime()) < indexAge {
		return i, nil
	}
	if err := run(ctx, dir, env, "update"); err != nil {
		return nil, err
	}
	return i, os.WriteFile(read, nil, 0o644)
}

// simulated is a line "Inst libc6 (2.36-9 Debian:12.15/oldstable [amd64])" of what apt would do.
var simulated = regexp.MustCompile(`(?m)^Inst (\S+) \((\S+) .*\[(\S+)\]\)`)

// Fetch has packages, with all that they need but nothing that they merely recommend, in the
// folder of the index, and returns them by name. Each is what the archive's signature vouches
// for.
func (i *Index) Fetch(ctx context.Context, names ...string) ([]File, error) {
	if len(names) == 0 {
		return nil, nil
	}
	// Nothing is installed as far as these settings know, so all that is needed is named.
	args := append([]string{"-q", "-y", "--no-install-recommends", "--simulate", "install"}, names...)
	var out bytes.Buffer
	if err := i.get(ctx, &out, args...); err != nil {
		return nil, err
	}
	args[3] = "--download-only"
	if err := i.get(ctx, io.Discard, args...); err != nil {
		return nil, err
	}
	var files []File
	for _, m := range simulated.FindAllStringSubmatch(out.String(), -1) {
		f := File{Package: Package{m[1], m[2]}}
		f.Path = filepath.Join(i.dir, "apt", "cache", "archives", fileName(f.Package, m[3]))
		if _, err := os.Stat(f.Path); err != nil {
			return nil, fmt.Errorf("apt-get fetched %s %s, and there is no such file: %w", f.Name, f.Version, err)
		}
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return files, nil
}

func (i *Index) get(ctx context.Context, out io.Writer, args ...string) error {
	if err := proc.Run(ctx, &proc.Cmd{Path: "apt-get", Args: args, Dir: i.dir, Env: i.env, Stdout: out, Tail: 4 << 10}); err != nil {
		return fmt.Errorf("apt-get %s: %w", strings.Join(args, " "), err)
	}
	return nil
}
