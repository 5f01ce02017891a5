package native

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
)

// tasks is a folder as containerd has it, with processes in place of containers.
type tasks struct {
	t   *testing.T
	dir string
}

// run starts a shell as the container of a pod; it has begun when it has written its file.
func (k tasks) run(namespace, pod, script string, annotations map[string]string) string {
	k.t.Helper()
	dir := filepath.Join(k.dir, pod)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		k.t.Fatal(err)
	}
	a := map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-namespace": namespace, "io.kubernetes.cri.sandbox-name": pod}
	for name, v := range annotations {
		a[name] = v
	}
	b, _ := json.Marshal(map[string]any{"ociVersion": "1", "annotations": a})
	out := filepath.Join(k.t.TempDir(), "out")
	cmd := exec.Command("sh", "-c", script+"\necho begun >>"+out+"\nwhile :; do sleep 0.05; done")
	cmd.Env = append(os.Environ(), "OUT="+out)
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for name, content := range map[string]string{"config.json": string(b), "init.pid": fmt.Sprint(cmd.Process.Pid)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			k.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(k.t.Context(), time.Minute)
	defer cancel()
	if err := check.Until(ctx, check.Pause{First: 5 * time.Millisecond}, func() error { _, err := os.Stat(out); return err }); err != nil {
		k.t.Fatal(err)
	}
	return out
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(b)), " ")
}

func TestDrain(t *testing.T) {
	var mu sync.Mutex
	var order []string
	note := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, s)
	}
	web := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { note("GET " + r.URL.Path) }))
	defer web.Close()
	at, err := url.Parse(web.URL)
	if err != nil {
		t.Fatal(err)
	}
	k := tasks{t, t.TempDir()}
	polite := k.run("apps", "polite", `trap 'sleep 0.2; echo ended >>$OUT; exit' TERM`, map[string]string{
		annotationPreStop: `{"exec":{"command":["save","me"]}}`, annotationGrace: "20",
	})
	k.run("apps", "deaf", `trap '' TERM`, map[string]string{annotationGrace: "1"})
	k.run("apps", "asked", ``, map[string]string{
		annotationPreStop: `{"httpGet":{"path":"/bye","port":"http","host":"127.0.0.1"}}`,
		annotationPorts:   `[{"name":"http","containerPort":` + at.Port() + `}]`,
	})
	k.run("kube-system", "dns", ``, nil)
	sandbox := k.run("apps", "sandbox", `trap 'echo ended >>$OUT; exit' TERM`, map[string]string{"io.kubernetes.cri.container-type": "sandbox"})
	pids := map[int]string{}
	for _, c := range containersIn(k.dir) {
		pids[c.pid] = c.name
	}
	d := drainer{folder: k.dir,
		exec: func(_ context.Context, c container, command []string) error {
			note("exec " + c.name + " " + strings.Join(command, " "))
			return nil
		},
		kill: func(pid int, sig syscall.Signal) error { note("TERM " + pids[pid]); return syscall.Kill(pid, sig) },
	}
	began := time.Now()
	left := d.drain(t.Context(), 10*time.Second)
	if !slices.Equal(left, []string{"apps/deaf"}) {
		t.Errorf("left: %q", left)
	}
	if took := time.Since(began); took < leastGrace || took > 9*time.Second {
		t.Errorf("it took %s, the deaf one has its own period", took)
	}
	if got := content(t, polite); got != "begun ended" {
		t.Errorf("the polite one had no time: %q", got)
	}
	if got := content(t, sandbox); got != "begun" {
		t.Errorf("the sandbox of a pod: %q", got)
	}
	for first, second := range map[string]string{"exec polite save me": "TERM polite", "GET /bye": "TERM asked", "TERM polite": "TERM dns", "TERM deaf": "TERM dns"} {
		i, j := slices.Index(order, first), slices.Index(order, second)
		if i < 0 || j < i {
			t.Errorf("%q is not before %q: %q", first, second, order)
		}
	}
}

// A stop has its own bound, whatever pods ask for.
func TestDrainIsBounded(t *testing.T) {
	k := tasks{t, t.TempDir()}
	k.run("apps", "slow", `trap '' TERM`, map[string]string{annotationGrace: "3600", annotationPreStop: `{"sleep":{"seconds":3600}}`})
	d := drainer{folder: k.dir, kill: syscall.Kill}
	began := time.Now()
	if left := d.drain(t.Context(), time.Second); len(left) != 1 {
		t.Errorf("left: %q", left)
	}
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("it took %s", took)
	}
}

// containerd hands on what drain reads.
func TestContainerdHandsOnAnnotations(t *testing.T) {
	for _, a := range []string{annotationGrace, annotationPreStop, annotationPorts} {
		if !strings.Contains(string(containerdConfig(testCluster(t))), "'"+a+"'") {
			t.Errorf("%s is not named", a)
		}
	}
}

// A service that is held is ended, and not started again.
func TestHeldService(t *testing.T) {
	if os.Getenv("ORRERY_TEST_PART") != "held" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestHeldService$", "-test.v")
		cmd.Env = append(os.Environ(), "ORRERY_TEST_PART=held")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS} // it writes to the log folder of nodes
		if os.Geteuid() != 0 {
			t.Skip("needs root: it plays PID 1")
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	b := &rootBuilder{root: "/"}
	b.do("private", func() error { return syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "") })
	b.mount("tmpfs", "/var/log", "tmpfs", 0, "")
	if b.err != nil {
		t.Fatal(b.err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s := newServiceSet([]service{{Name: "kubelet", Args: []string{"/bin/sleep", "100"}}}, nil, w)
	go s.reap()
	done := make(chan struct{})
	go func() { s.supervise(s.services[0]); close(done) }()
	var e initEvent
	if err := json.NewDecoder(r).Decode(&e); err != nil || e.State != "running" {
		t.Fatalf("%+v, %v", e, err)
	}
	s.hold("kubelet")
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("it is supervised for ever")
	}
	if !zombie(e.PID) {
		t.Error("it runs")
	}
}
