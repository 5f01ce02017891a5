package build

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/version"
	"maps"
	"os/exec"
	"strings"

	"github.com/orrery-dev/orrery/internal/proc"
)

// toolchain is the Go that compiles.
type toolchain struct {
	path    string // of the go command
	version string // "go1.26.8"
	root    string // GOROOT
	tools   string // GOTOOLDIR
	env     map[string]string
}

// userSettings are the go settings that say where a person's modules come from. They are
// the only ones that are respected; all others decide bytes and are fixed.
var userSettings = []string{
	"GOAUTH", "GOINSECURE", "GOMODCACHE", "GONOPROXY", "GONOSUMDB", "GOPATH", "GOPRIVATE", "GOPROXY", "GOSUMDB", "GOVCS",
}

const defaultProxy = "https://proxy.golang.org,direct"

// toolchain asks the go command once. A failure is asked again: Go may be installed in
// between.
func (b *Builder) toolchain(ctx context.Context, s source) (*toolchain, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.go_ == nil {
		tc, err := findToolchain(ctx, s.goVersion())
		if err != nil {
			return nil, err
		}
		b.go_ = tc
	}
	if want := s.goVersion(); want != "" && version.Compare("go"+want, b.go_.version) > 0 {
		return nil, &GoError{Want: want, Have: b.go_.version}
	}
	return b.go_, nil
}

// goVersion is of the Go that compiles s. Where there is none, it is of the last one here: what
// that made can be used without it.
func (b *Builder) goVersion(ctx context.Context, s source) (string, error) {
	tc, err := b.toolchain(ctx, s)
	if err == nil {
		return tc.version, nil
	}
	last := b.readToolchain()
	if !noGo(err) || last.Sum == "" || version.Compare("go"+s.goVersion(), last.Version) > 0 {
		return "", err
	}
	return last.Version, nil
}

// noGo reports that err is that there is no Go at all.
func noGo(err error) bool {
	missing, ok := errors.AsType[*GoError](err)
	return ok && missing.Have == ""
}

func findToolchain(ctx context.Context, want string) (*toolchain, error) {
	path, err := exec.LookPath("go")
	if err != nil {
		return nil, &GoError{Want: want}
	}
	tc := &toolchain{path: path}
	var out bytes.Buffer
	cmd := &proc.Cmd{
		Path: path, Args: append([]string{"env", "-json", "GOVERSION", "GOROOT", "GOTOOLDIR"}, userSettings...),
		// Outside of every module, so that no go.mod has a say in which Go answers.
		Dir: "/", Env: append(proc.Environment("GO*"), "GOTOOLCHAIN=local", "GOFLAGS=", "GOWORK=off", "GOROOT="), Stdout: &out,
	}
	if err := proc.Run(ctx, cmd); err != nil {
		return nil, fmt.Errorf("ask Go for its settings: %w", err)
	}
	if err := json.Unmarshal(out.Bytes(), &tc.env); err != nil {
		return nil, fmt.Errorf("ask Go for its settings: %w", err)
	}
	tc.version, tc.root, tc.tools = tc.env["GOVERSION"], tc.env["GOROOT"], tc.env["GOTOOLDIR"]
	for _, name := range []string{"GOVERSION", "GOROOT", "GOTOOLDIR"} {
		delete(tc.env, name)
	}
	if tc.env["GOPROXY"] == defaultProxy {
		// Where the proxy has no answer, cloning from the origin would mean minutes of
		// waiting for hosts that are rarely reachable, and git. Fail at once instead.
		tc.env["GOPROXY"] = strings.TrimSuffix(defaultProxy, ",direct")
	}
	return tc, nil
}

// ModuleSettings are a person's go settings that say where modules come from, by name:
// GOPROXY, GOMODCACHE and the like; and GOROOT, where Go itself is.
func (b *Builder) ModuleSettings(ctx context.Context) (map[string]string, error) {
	tc, err := findToolchain(ctx, "")
	if err != nil {
		return nil, err
	}
	settings := maps.Clone(tc.env)
	settings["GOROOT"] = tc.root
	return settings, nil
}

// environment is what go commands run in: what every program gets of the process's own, which
// is nothing that Go or a C compiler would read, then our settings. cache is the GOCACHE.
func (b *Builder) environment(tc *toolchain, cgo bool, cache string, extra ...string) []string {
	env := proc.Environment()
	for name, value := range tc.env {
		env = append(env, name+"="+value)
	}
	enabled := "0"
	if cgo {
		enabled = "1"
	}
	env = append(env, b.opts.Env...)
	env = append(env, "LC_ALL=C", // errors are read below, and compilers translate theirs
		"GOENV=off", "GOFLAGS=", "GOTOOLCHAIN=local", "GOWORK=off", "GOOS=linux",
		"GOCACHE="+cache, "CGO_ENABLED="+enabled)
	env = append(env, targetArch(b.arch())...)
	return append(env, extra...)
}

// cToolchain describes the C compiler, the linker and the libraries that go into a
// static binary. What is not installed is described as such: the build says what is
// missing, and the key is another one once it is there.
func (b *Builder) cToolchain(ctx context.Context, packages []string) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	packages = append([]string{"libc6-dev"}, packages...)
	id := strings.Join(packages, " ")
	if known := b.libs[id]; known != "" {
		return known, nil
	}
	var text strings.Builder
	complete := true
	for _, argv := range [][]string{
		{"gcc", "--version"}, {"ld", "--version"},
		append([]string{"dpkg-query", "-W", "-f", "${Package} ${Version} ${Architecture} ${db:Status-Status}\n"}, packages...),
	} {
		var out bytes.Buffer
		err := proc.Run(ctx, &proc.Cmd{Path: argv[0], Args: argv[1:], Stdout: &out, Env: append(proc.Environment(), "LC_ALL=C")})
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		// dpkg-query fails when one package is unknown, and lists the others.
		complete = complete && err == nil
		line := out.String()
		if argv[0] != "dpkg-query" {
			line, _, _ = strings.Cut(line, "\n")
		}
		fmt.Fprintf(&text, "%s: %s\n", argv[0], line)
	}
	if complete {
		b.libs[id] = text.String()
	}
	return text.String(), nil
}
