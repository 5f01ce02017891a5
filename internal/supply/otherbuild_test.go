package supply

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestCopySource(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "a", "copy")
	for name, text := range map[string]string{"go.mod": "module x", "a/b.go": "package a", ".git/config": "secret", "a/.env": "kept: a file", ".hidden/x": "no"} {
		file := filepath.Join(from, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(from, "a", "link")); err != nil {
		t.Fatal(err)
	}
	if err := copySource(t.Context(), from, to); err != nil {
		t.Fatal(err)
	}
	for name, there := range map[string]bool{"go.mod": true, "a/b.go": true, ".git": false, ".hidden": false, "a/link": false} {
		if _, err := os.Lstat(filepath.Join(to, name)); (err == nil) != there {
			t.Errorf("%s: %v", name, err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(to, "a", "b.go")); string(text) != "package a" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	if err := copySource(t.Context(), from, to); !errors.Is(err, os.ErrExist) {
		t.Errorf("over a copy: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := copySource(ctx, from, t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestOpenFolder(t *testing.T) {
	parent, err := os.MkdirTemp("/tmp", "open-") // t.TempDir is below folders that are closed
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(parent)
	for mode, want := range map[os.FileMode]bool{0o755: true, 0o711: true, 0o700: false, 0o750: false} {
		if err := os.Chmod(parent, mode); err != nil {
			t.Fatal(err)
		}
		inner := filepath.Join(parent, "inner")
		if err := os.MkdirAll(inner, 0o755); err != nil {
			t.Fatal(err)
		}
		if open(parent) != want || open(inner) != want {
			t.Errorf("%v: %v, and what is in it: %v", mode, open(parent), open(inner))
		}
	}
	if open(filepath.Join(parent, "nothing")) {
		t.Error("a folder that is not there")
	}
}

// Proxies are passed on in either case, and this machine is always reached without one.
func TestOtherEnvironment(t *testing.T) {
	for _, c := range []struct {
		upper, lower, want string
	}{{"", "", "127.0.0.1"}, {"a.example", "", "a.example,127.0.0.1"}, {"", "b.example", "b.example,127.0.0.1"}, {"a.example", "b.example", "a.example,127.0.0.1"}} {
		t.Setenv("NO_PROXY", c.upper)
		t.Setenv("no_proxy", c.lower)
		t.Setenv("https_proxy", "http://proxy.example")
		t.Setenv("ORRERY_KEY_PASSWORD", "secret")
		e := &otherBuild{dir: "/d"}
		e.environment(map[string]string{"GOROOT": "/go", "GOFLAGS": "-x"})
		for _, v := range []string{"NO_PROXY=" + c.want, "https_proxy=http://proxy.example", "TZ=Asia/Kathmandu", "GOFLAGS=-x", "HOME=/d/home"} {
			if !slices.Contains(e.env, v) {
				t.Errorf("no %s in %q", v, e.env)
			}
		}
		if all := strings.Join(e.env, " "); strings.Contains(all, "secret") || strings.Contains(all, "GOROOT=") || !strings.HasPrefix(all, "PATH=/go/bin:") {
			t.Errorf("%q", e.env)
		}
	}
}

// The module cache is served by the module proxy protocol, while it is needed.
func TestServeModules(t *testing.T) {
	cache := t.TempDir()
	file := filepath.Join(cache, "cache", "download", "example.org", "x", "@v", "list")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("v1.0.0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	e := &otherBuild{dir: t.TempDir()}
	if err := e.serveModules(map[string]string{"GOMODCACHE": cache, "GOPROXY": "off"}); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(e.env, func(v string) bool { return strings.HasPrefix(v, "GOPROXY=") })
	if i < 0 || !strings.HasSuffix(e.env[i], ",off") {
		t.Fatalf("%q", e.env)
	}
	url := strings.TrimSuffix(strings.TrimPrefix(e.env[i], "GOPROXY="), ",off") + "/example.org/x/@v/list"
	resp, err := http.Get(url)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	resp.Body.Close()
	dir := e.dir
	e.remove()
	if resp, err := http.Get(url); err == nil {
		resp.Body.Close()
		t.Error("it is served for ever")
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("it is left: %v", err)
	}
}
