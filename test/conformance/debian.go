package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/orrery-dev/orrery/internal/apt"
)

// left out of images: nobody reads them there.
var undocumented = regexp.MustCompile(`^usr/share/(doc|info|lintian|locale|man|bug)/`)

// unpack calls add for each file of a package, by its name in a system in which /bin, /lib
// and the like are links into /usr. No maintainer script is run.
func unpack(ctx context.Context, p apt.File, add func(*tar.Header, io.Reader) error) (err error) {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", p.Path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_, _ = io.Copy(io.Discard, out) // or it would wait for a reader
		if e := cmd.Wait(); e != nil || err != nil {
			err = fmt.Errorf("unpack %s: %w", p.Path, errors.Join(err, e))
		}
	}()
	for r := tar.NewReader(out); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if slices.Contains(mergedDirs, path.Clean(h.Name)) {
			continue // the links themselves, which every image has
		}
		h.Name = merged(h.Name)
		if h.Typeflag == tar.TypeLink {
			h.Linkname = merged(h.Linkname)
		}
		if h.Typeflag == tar.TypeDir || undocumented.MatchString(h.Name) {
			continue // folders follow from the files
		}
		if err := add(h, r); err != nil {
			return err
		}
	}
}

// mergedDirs are links into /usr in every Debian since 12.
var mergedDirs = []string{"bin", "lib", "lib64", "sbin"}

func merged(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if first, _, _ := strings.Cut(name, "/"); slices.Contains(mergedDirs, first) {
		return "usr/" + name
	}
	return name
}
