package smoke

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/mirror"
)

// shown is a file as docs/reference/first-component.md shows it.
var shown = regexp.MustCompile("(?s)\\*\\*`([^`]+)`\\*\\*\n```[a-z]+\n(.*?)```")

// TestFirstComponent walks docs/reference/first-component.md: its files are a component of a
// catalogue, which renders in an overlay; its program is built, checks itself, and what it
// prints is what verify shows.
func TestFirstComponent(t *testing.T) {
	const repository = "../../.."
	page, err := os.ReadFile(filepath.Join(repository, "docs/reference/first-component.md"))
	if err != nil {
		t.Fatal(err)
	}
	root, base := t.TempDir(), filepath.FromSlash("infra/k8s/base")
	put := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files := shown.FindAllStringSubmatch(string(page), -1)
	if len(files) != 8 {
		t.Errorf("the page shows %d files", len(files))
	}
	for _, f := range files {
		put(f[1], f[2])
	}
	put("go.mod", "module example.com/x\n")
	put("infra/k8s/overlays/local/overlay.yaml",
		"apiVersion: orrery.dev/v1alpha1\nkind: Overlay\nname: local\ncomponents: [namespaces, coredns, hello]\n")
	for _, needed := range []string{"namespaces", "coredns"} {
		if err := os.CopyFS(filepath.Join(root, base, needed), os.DirFS(filepath.Join(repository, base, needed))); err != nil {
			t.Fatal(err)
		}
	}
	native, err := filepath.Abs(filepath.Join(repository, "infra/native"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(native, filepath.Join(root, "infra/native")); err != nil {
		t.Fatal(err)
	}

	c, err := catalog.Load(root)
	if err != nil {
		t.Fatal(err)
	}
	components, err := c.Select("local", []string{"hello"})
	if err != nil || len(components) != 3 {
		t.Fatalf("selected %d components: %v", len(components), err)
	}
	hello := components[2]
	in := kube.RenderInput{
		Component: hello, Overlay: c.Overlays["local"], Facts: kube.Facts{ClusterDomain: "cluster.local"},
		Images: map[string]string{"hello": mirror.Host + "/hello:v0.1.0@sha256:" + strings.Repeat("ab", 32)},
	}
	if objs, err := kube.Render(in); err != nil || len(objs) != 4 {
		t.Fatalf("rendered %d objects: %v", len(objs), err)
	}

	f, env := newFake(t)
	env.Jobs = []kube.RenderInput{in}
	f.job.ends = true
	f.job.logs = func(int) io.Reader { return strings.NewReader(helloPrints(t, hello.Images[0].Binaries[0].Dir)) }
	all := Checks(env)
	for _, name := range hello.Checks() {
		r := check.Await(t.Context(), all[name]("hello")[0], nil)
		if r.State != check.Succeeded || !strings.HasSuffix(r.Message, "says hello") {
			t.Errorf("%s: %s: %s", name, r.State, r.Message)
		}
	}
	f.gone(t)
}

// helloPrints builds the program, starts it and has it check itself.
func helloPrints(t *testing.T, dir string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "hello")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
	build.Dir, build.Env = dir, append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	serve := exec.CommandContext(ctx, program, "serve", address)
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = serve.Wait() }()
	out, err := exec.CommandContext(ctx, program, "check", "http://"+address).Output()
	if err != nil {
		t.Fatalf("check: %v: %s", err, out)
	}
	return string(out)
}
