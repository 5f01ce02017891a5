package existing

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/driver/drivertest"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/kube/kubetest"
	"github.com/orrery-dev/orrery/internal/spec"
)

// notes is a journal that checks that an effect is told before it is there.
type notes struct {
	drivertest.Journal
	t *testing.T
}

func (n *notes) Begin(e driver.Effect) error {
	begun := slices.ContainsFunc(n.Live(), func(l driver.Effect) bool { return l.ID == e.ID })
	if _, err := os.Stat(e.ID); err == nil && !begun {
		n.t.Errorf("%s was made before it was told", e.ID)
	}
	return n.Journal.Begin(e)
}

type fixture struct {
	*Driver
	server *kubetest.Server
	file   string // the person's
	notes  *notes
}

func start(t *testing.T) fixture {
	t.Helper()
	s := kubetest.New(t)
	s.SetNodes([]kubetest.Node{
		{Name: "a1", Labels: zone("a"), Address: "10.0.0.2", Ready: true},
		{Name: "s1", Labels: zone("b"), Address: "10.0.0.1", Ready: true, Server: true},
	})
	dir := t.TempDir()
	f := fixture{server: s, file: filepath.Join(dir, "config"), notes: &notes{t: t}}
	// The current context is another one, and the CA is a file beside it.
	text := strings.Replace(string(s.Kubeconfig()), "current-context: test", "current-context: other", 1)
	text = strings.Replace(text, "clusters: [", "clusters: [{name: other, cluster: {server: https://other.example.org}}, ", 1)
	text = strings.Replace(text, "contexts: [", "contexts: [{name: other, context: {cluster: other, user: test}}, ", 1)
	if err := os.WriteFile(f.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f.Driver = f.again(t, dir, "test")
	return f
}

func (f fixture) again(t *testing.T, dir, contextName string) *Driver {
	t.Helper()
	e := spec.Named("shared")
	e.Driver, e.Existing = spec.DriverExisting, &spec.Existing{Kubeconfig: f.file, Context: contextName}
	d, err := New(driver.Options{Spec: e, StateDir: filepath.Join(dir, "state"), Journal: f.notes, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (f fixture) phase(t *testing.T, want driver.Phase) driver.Observation {
	t.Helper()
	o, err := f.Observe(t.Context())
	if err != nil || o.Phase != want {
		t.Fatalf("phase %s, %v; want %s", o.Phase, err, want)
	}
	return o
}

// TestConformance takes a cluster that is there already through what every driver does. Its
// nodes are of the test's API server.
func TestConformance(t *testing.T) {
	f := start(t)
	before, err := os.ReadFile(f.file)
	if err != nil {
		t.Fatal(err)
	}
	var written int // by the suite itself
	object := func(key string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"namespace": "default", "name": key},
		}}
	}
	drivertest.Run(t, drivertest.Subject{
		New: func() (driver.Driver, error) { return New(f.Options) },
		Put: func(ctx context.Context, kubeconfig, key string) error {
			written++
			return with(kubeconfig, func(c *kube.Client) error { return c.Create(ctx, object(key)) })
		},
		Get: func(ctx context.Context, kubeconfig, key string) error {
			return with(kubeconfig, func(c *kube.Client) error {
				_, err := c.Get(ctx, "v1", "ConfigMap", "default", key)
				return err
			})
		},
		Running: func(t *testing.T, o driver.Observation) { f.lookAt(t, o) },
	})
	if live := f.notes.Live(); len(live) > 0 {
		t.Errorf("journal still has %+v", live)
	}
	if after, err := os.ReadFile(f.file); err != nil || string(after) != string(before) {
		t.Errorf("the person's kubeconfig changed: %v", err)
	}
	for _, r := range f.server.Requests() {
		if r.Method != "GET" {
			written--
		}
	}
	if written != 0 {
		t.Errorf("the driver changed the cluster %d times", -written)
	}
}

func with(kubeconfig string, do func(*kube.Client) error) error {
	c, err := kube.Connect(kubeconfig)
	if err != nil {
		return err
	}
	defer c.Close()
	return do(c)
}

// lookAt checks what only this driver promises.
func (f fixture) lookAt(t *testing.T, o driver.Observation) {
	if len(o.Nodes) != 2 || o.Nodes[0].Name != "s1" || o.Nodes[0].Role != driver.RoleServer || o.Nodes[1].Zone != "a" {
		t.Errorf("nodes %+v", o.Nodes)
	}
	if o.Endpoints[driver.EndpointAPI] != "https://"+f.server.Address() {
		t.Errorf("endpoints %v", o.Endpoints)
	}
	copied, err := os.ReadFile(o.Kubeconfig)
	if err != nil || strings.Contains(string(copied), "other") || !strings.Contains(string(copied), "current-context: test") {
		t.Errorf("the copy has more than the one context: %s, %v", copied, err)
	}
	if info, err := os.Stat(o.Kubeconfig); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// A cluster that does not answer is there only in part, and comes back.
func TestNoAnswer(t *testing.T) {
	f := start(t)
	if err := f.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.phase(t, driver.PhaseRunning)
	f.server.Stop()
	f.phase(t, driver.PhasePartial)
	if err := f.server.Listen(""); err != nil {
		t.Fatal(err)
	}
	f.phase(t, driver.PhaseRunning)
}

func TestWrongContext(t *testing.T) {
	f := start(t)
	d := f.again(t, t.TempDir(), "tset")
	if err := d.Ensure(t.Context()); !failure.IsUsage(err) || !strings.Contains(err.Error(), `no context "tset"`) || !strings.Contains(err.Error(), "other test") {
		t.Errorf("got %v", err)
	}
}

// The way to the cluster that was kept is used where the person's file is gone.
func TestFileGone(t *testing.T) {
	f := start(t)
	if err := f.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(f.file); err != nil {
		t.Fatal(err)
	}
	if err := f.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	f.phase(t, driver.PhaseRunning)
}

func TestPreflight(t *testing.T) {
	f := start(t)
	states := func() map[string]check.Result {
		got := map[string]check.Result{}
		for _, c := range f.Preflight(t.Context()) {
			got[c.Name] = c.Probe(t.Context())
		}
		return got
	}
	got := states()
	for name, want := range map[string]check.State{"version": check.Succeeded, "nodes": check.Succeeded, "network": check.Skipped, "pod-security": check.Succeeded} {
		if got[name].State != want {
			t.Errorf("%s: %+v", name, got[name])
		}
	}
	f.server.SetNodes([]kubetest.Node{{Name: "a1", Labels: zone("a")}})
	if r := states()["nodes"]; r.State != check.Skipped || !strings.Contains(r.Message, "a1") {
		t.Errorf("a node that is not Ready: %+v", r)
	}
	f.server.Stop()
	for name, r := range states() {
		if r.State == check.Succeeded {
			t.Errorf("%s succeeds of a cluster that does not answer: %+v", name, r)
		}
	}
}

func zone(name string) map[string]string {
	return map[string]string{"topology.kubernetes.io/zone": name}
}
