package apt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/orrery-dev/orrery/internal/proc"
)

// Keyring is what Debian signs its archive with, of the package debian-archive-keyring.
const Keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// ErrUnavailable is wrapped when this machine cannot fetch packages of Debian at all.
var ErrUnavailable = errors.New("packages of Debian cannot be fetched here")

// Package is one package at one version.
type Package struct{ Name, Version string }

// Request says what to fetch.
type Request struct {
	Suite    string // "bookworm"
	Snapshot string // when the archive had all Packages: "20260901T000000Z"
	Arch     string // "amd64"
	Packages []Package
}

// Available says why packages cannot be fetched, without asking the network.
func Available() error {
	for _, program := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w: there is no %s", ErrUnavailable, program)
		}
	}
	if _, err := os.Stat(Keyring); err != nil {
		return fmt.Errorf("%w: there is no %s (package debian-archive-keyring)", ErrUnavailable, Keyring)
	}
	return nil
}

// Fetch has the packages in the folder dir, which is made if needed, and returns their files
// in the order asked for. What Debian's archive has no more comes from its snapshot. Each file
// is what the archive's signature vouches for.
func Fetch(ctx context.Context, dir string, r Request) ([]string, error) {
	if err := Available(); err != nil {
		return nil, err
	}
	var errs []error
	for _, a := range archives(r) {
		files, err := fetchFrom(ctx, filepath.Join(dir, a.name), a, r)
		if err == nil || ctx.Err() != nil {
			return files, err
		}
		errs = append(errs, fmt.Errorf("%s: %w", a.name, err))
	}
	return nil, errors.Join(errs...)
}

// archive is a place that has packages.
type archive struct {
	name    string
	sources string // sources.list(5)
}

// archives in the order in which they are asked. A snapshot is as old as it is: its signature
// counts, and not the date until which it was valid.
func archives(r Request) []archive {
	entry := func(options, url, suite string) string {
		return fmt.Sprintf("deb [signed-by=%s arch=%s%s] %s %s main\n", Keyring, r.Arch, options, url, suite)
	}
	const now, then = "http://deb.debian.org/", "http://snapshot.debian.org/archive/"
	all := []archive{{"deb.debian.org", entry("", now+"debian", r.Suite) + entry("", now+"debian", r.Suite+"-updates") + entry("", now+"debian-security", r.Suite+"-security")}}
	if r.Snapshot != "" {
		const old = " check-valid-until=no"
		all = append(all, archive{"snapshot.debian.org", entry(old, then+"debian/"+r.Snapshot, r.Suite) + entry(old, then+"debian-security/"+r.Snapshot, r.Suite+"-security")})
	}
	return all
}

// fetchFrom fetches everything from one archive into dir.
func fetchFrom(ctx context.Context, dir string, a archive, r Request) ([]string, error) {
	env, err := settings(ctx, dir, a, r.Arch)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(filepath.Join(dir, "apt")) // lists are 60 MB
	if err := run(ctx, dir, env, "update"); err != nil {
		return nil, err
	}
	args := []string{"download"}
	for _, p := range r.Packages {
		args = append(args, p.Name+"="+p.Version)
	}
	if err := run(ctx, dir, env, args...); err != nil {
		return nil, err
	}
	var files []string
	for _, p := range r.Packages {
		file := filepath.Join(dir, fileName(p, r.Arch))
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("apt-get fetched %s %s, and there is no such file: %w", p.Name, p.Version, err)
		}
		files = append(files, file)
	}
	return files, nil
}

// fileName is how apt calls the file of a package: the colon of an epoch is escaped.
func fileName(p Package, arch string) string {
	return p.Name + "_" + strings.ReplaceAll(p.Version, ":", "%3a") + "_" + arch + ".deb"
}

// settings writes an apt.conf(5) that leaves the host alone, and returns the environment that
// has apt read it. Of the host's settings only those that say how to get out are taken:
// others may have hooks that clean up its cache after every update.
func settings(ctx context.Context, dir string, a archive, arch string) ([]string, error) {
	own := filepath.Join(dir, "apt")
	for _, d := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(own, d), 0o755); err != nil {
			return nil, err
		}
	}
	var host bytes.Buffer
	env := append(proc.Environment("APT_CONFIG"), "LC_ALL=C")
	if err := proc.Run(ctx, &proc.Cmd{Path: "apt-config", Args: []string{"dump", "Acquire"}, Env: env, Stdout: &host}); err != nil {
		return nil, fmt.Errorf("read apt's settings: %w", err)
	}
	var conf strings.Builder
	for line := range strings.Lines(host.String()) {
		if reach(line) {
			conf.WriteString(line)
		}
	}
	for _, setting := range [][2]string{
		{"Dir::Etc::main", "/dev/null"}, {"Dir::Etc::parts", "/dev/null"},
		{"Dir::Etc::sourcelist", own + "/sources.list"}, {"Dir::Etc::sourceparts", "/dev/null"},
		{"Dir::Etc::preferences", "/dev/null"}, {"Dir::Etc::preferencesparts", "/dev/null"},
		{"Dir::State", own}, {"Dir::State::lists", own + "/lists"}, {"Dir::State::status", own + "/status"},
		{"Dir::Cache", own + "/cache"},
		{"APT::Architecture", arch}, {"APT::Architectures", arch},
		{"APT::Sandbox::User", "root"}, // the folder may be closed to _apt
		{"Acquire::Languages", "none"}, {"Acquire::Retries", "3"},
	} {
		fmt.Fprintf(&conf, "%s %q;\n", setting[0], setting[1])
	}
	for name, text := range map[string]string{"apt.conf": conf.String(), "sources.list": a.sources, "status": ""} {
		if err := os.WriteFile(filepath.Join(own, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return append(env, "APT_CONFIG="+own+"/apt.conf"), nil
}

// reach reports whether a line of apt's settings says how to reach servers.
func reach(line string) bool {
	name, _, _ := strings.Cut(line, " ")
	for _, part := range []string{"proxy", "cainfo", "sslcert", "sslkey", "verify-peer", "timeout"} {
		if strings.Contains(strings.ToLower(name), part) {
			return true
		}
	}
	return false
}

// run calls apt-get. It warns of what it could not fetch of the lists and goes on with what it
// had before; here that is nothing, so such warnings are errors.
func run(ctx context.Context, dir string, env []string, args ...string) error {
	args = append([]string{"-q", "-o", "APT::Update::Error-Mode=any"}, args...)
	if err := proc.Run(ctx, &proc.Cmd{Path: "apt-get", Args: args, Dir: dir, Env: env, Stdout: io.Discard, Tail: 4 << 10}); err != nil {
		return fmt.Errorf("apt-get %s: %w", args[3], err)
	}
	return nil
}
