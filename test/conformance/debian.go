package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// debian fetches packages with apt, whose state and cache are folders of ours: the host's
// own are neither read nor changed, and nothing is installed. apt checks signatures and hashes.
type debian struct {
	dir     string // of state and cache
	suite   string // such as "bookworm"
	keyring string
}

const debianKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// open makes the folders and reads the archive's index.
func (d debian) open(ctx context.Context) error {
	for _, tool := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("the images that stand in for the suite's are made of Debian packages, which needs apt and dpkg on this machine: %w", err)
		}
	}
	for _, sub := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(d.dir, sub), 0o755); err != nil {
			return err
		}
	}
	var sources strings.Builder
	for _, s := range []string{"debian " + d.suite, "debian " + d.suite + "-updates", "debian-security " + d.suite + "-security"} {
		archive, suite, _ := strings.Cut(s, " ")
		fmt.Fprintf(&sources, "deb [signed-by=%s] http://deb.debian.org/%s %s main\n", d.keyring, archive, suite)
	}
	if err := os.WriteFile(filepath.Join(d.dir, "sources.list"), []byte(sources.String()), 0o644); err != nil {
		return err
	}
	// Nothing is installed there: so apt names all that a package needs.
	if err := os.WriteFile(filepath.Join(d.dir, "status"), nil, 0o644); err != nil {
		return err
	}
	read := filepath.Join(d.dir, "updated")
	if info, err := os.Stat(read); err == nil && time.Since(info.ModTime()) < indexAge {
		return nil
	}
	if _, err := d.apt(ctx, "update", "-o", "APT::Update::Error-Mode=any"); err != nil {
		return err
	}
	return os.WriteFile(read, nil, 0o644)
}

// indexAge is how old the index may be: packages that it names are kept by the archive longer.
const indexAge = 24 * time.Hour

func (d debian) apt(ctx context.Context, args ...string) (string, error) {
	at := func(name string) string { return filepath.Join(d.dir, name) }
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-y",
		"-o", "Dir::State=" + at("state"), "-o", "Dir::State::status=" + at("status"), "-o", "Dir::Cache=" + at("cache"),
		"-o", "Dir::Etc::sourcelist=" + at("sources.list"), "-o", "Dir::Etc::sourceparts=-",
		"-o", "APT::Sandbox::User=root", "-o", "APT::Install-Recommends=false", "-o", "Acquire::Languages=none",
		"-o", "Acquire::Retries=3"}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.Output()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		return "", fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, failed.Stderr)
	}
	return string(out), err
}

// deb is a package in the cache.
type deb struct{ name, version, file string }

// "Inst libc6 (2.36-9 Debian:12.15/oldstable [amd64])" of a simulated installation.
var simulated = regexp.MustCompile(`(?m)^Inst (\S+) \((\S+) .*\[(\S+)\]\)`)

// fetch downloads packages with all that they need, and returns them by name.
func (d debian) fetch(ctx context.Context, names []string) ([]deb, error) {
	if len(names) == 0 {
		return nil, nil
	}
	out, err := d.apt(ctx, append([]string{"install", "--simulate"}, names...)...)
	if err != nil {
		return nil, err
	}
	var all []deb
	for _, m := range simulated.FindAllStringSubmatch(out, -1) {
		file := fmt.Sprintf("%s_%s_%s.deb", m[1], strings.ReplaceAll(m[2], ":", "%3a"), m[3])
		all = append(all, deb{m[1], m[2], filepath.Join(d.dir, "cache", "archives", file)})
	}
	if _, err := d.apt(ctx, append([]string{"install", "--download-only"}, names...)...); err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b deb) int { return strings.Compare(a.name, b.name) })
	for _, p := range all {
		if _, err := os.Stat(p.file); err != nil {
			return nil, fmt.Errorf("apt did not download %s %s: %w", p.name, p.version, err)
		}
	}
	return all, nil
}

// left out of images: nobody reads them there.
var undocumented = regexp.MustCompile(`^usr/share/(doc|info|lintian|locale|man|bug)/`)

// unpack calls add for each file of a package, by its name in a system in which /bin, /lib
// and the like are links into /usr. No maintainer script is run.
func (p deb) unpack(ctx context.Context, add func(*tar.Header, io.Reader) error) (err error) {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", p.file)
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
			err = fmt.Errorf("unpack %s: %w", p.file, errors.Join(err, e))
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
