package fake_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/driver/drivertest"
	"github.com/orrery-dev/orrery/internal/driver/fake"
	"github.com/orrery-dev/orrery/internal/spec"
)

// TestMain lets the test binary be another process that observes.
func TestMain(m *testing.M) {
	if dir := os.Getenv("FAKE_TEST_OBSERVE"); dir != "" {
		d, err := fake.New(fake.Options{Spec: environment(), StateDir: dir, Journal: &drivertest.Journal{}})
		if err == nil {
			var o driver.Observation
			if o, err = d.Observe(context.Background()); err == nil {
				err = json.NewEncoder(os.Stdout).Encode(o)
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func environment() spec.Environment {
	e := spec.Named("fake-test")
	e.Network.Plugin = spec.PluginPTP
	return e
}

func made(t *testing.T) (*fake.Cluster, *fake.Driver, *drivertest.Journal) {
	t.Helper()
	h := fake.NewHost(t)
	j := &drivertest.Journal{}
	d, err := fake.New(fake.Options{Spec: environment(), StateDir: filepath.Join(t.TempDir(), "env"), Journal: j, Host: h.URL()})
	if err != nil {
		t.Fatal(err)
	}
	return h.Cluster("fake-test"), d, j
}

func TestConformance(t *testing.T) {
	_, d, journal := made(t)
	drivertest.Run(t, drivertest.Subject{
		New: func() (driver.Driver, error) { return fake.New(d.Options) },
		Put: func(ctx context.Context, kubeconfig, key string) error {
			_, err := configMaps(kubeconfig, func(r dynamic.ResourceInterface) (*unstructured.Unstructured, error) {
				return r.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
					"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": key},
				}}, metav1.CreateOptions{})
			})
			return err
		},
		Get: func(ctx context.Context, kubeconfig, key string) error {
			_, err := configMaps(kubeconfig, func(r dynamic.ResourceInterface) (*unstructured.Unstructured, error) {
				return r.Get(ctx, key, metav1.GetOptions{})
			})
			return err
		},
	})
	if len(journal.Live()) > 0 {
		t.Errorf("journal still has %+v", journal.Live())
	}
}

func configMaps(kubeconfig string, f func(dynamic.ResourceInterface) (*unstructured.Unstructured, error)) (
	*unstructured.Unstructured, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	c, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return f(c.Resource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}).Namespace("default"))
}

func up(t *testing.T, d driver.Driver) {
	t.Helper()
	if err := errors.Join(d.Prepare(t.Context()), d.Ensure(t.Context()), d.Ready(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// Every method can be made to fail, before or after its work.
func TestFaults(t *testing.T) {
	c, d, journal := made(t)
	methods := map[string]func(context.Context) error{
		"Prepare": d.Prepare, "Ensure": d.Ensure, "Ready": d.Ready, "Stop": d.Stop, "Delete": d.Delete,
		"Observe":  func(ctx context.Context) error { _, err := d.Observe(ctx); return err },
		"Audit":    func(ctx context.Context) error { _, err := d.Audit(ctx); return err },
		"KillNode": func(ctx context.Context) error { return d.KillNode(ctx, "server1") },
		"StopNode": func(ctx context.Context) error { return d.StopNode(ctx, "server1") },
		"Logs":     func(ctx context.Context) error { return d.Logs(ctx, "server1", "etcd", false, os.Stderr) },
		"Preflight": func(ctx context.Context) error {
			return d.Preflight(ctx)[0].Probe(ctx).Err
		},
	}
	for name, f := range methods {
		c.Fail(name, fake.Fault{Times: 1, Error: "no " + name})
		if err := f(t.Context()); err == nil || err.Error() != "no "+name {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(journal.Live()) > 0 {
		t.Errorf("what failed made %v", journal.Live())
	}
	c.Fail("Ensure", fake.Fault{Times: 1, Error: "late", Late: true})
	if err := d.Ensure(t.Context()); err == nil || len(journal.Live()) != 3 {
		t.Errorf("%v, journal %v", err, journal.Live())
	}
	up(t, d)
	c.Fail("Audit", fake.Fault{Leaks: []string{"a mount"}})
	if leaks, err := d.Audit(t.Context()); err != nil || len(leaks) != 4 || leaks[0] != "a mount" {
		t.Errorf("leaks %q, %v", leaks, err)
	}
	c.Fail("Ready", fake.Fault{Delay: time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := d.Ready(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// A node that died is not Ready, and what waits for it says so.
func TestDeadNode(t *testing.T) {
	c, d, _ := made(t)
	up(t, d)
	c.SetDown("agent1", true)
	if o, err := d.Observe(t.Context()); err != nil || o.Phase != driver.PhasePartial {
		t.Errorf("%s, %v", o.Phase, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := d.Ready(ctx); err == nil || !strings.Contains(err.Error(), "agent1") {
		t.Errorf("ready with a dead node: %v", err)
	}
	if n := c.API.Get("v1", "Node", "", "agent1"); !strings.Contains(fmt.Sprint(n.Object["status"]), "status:False") {
		t.Errorf("the API believes in it: %v", n.Object["status"])
	}
	c.SetDown("agent1", false)
	if err := d.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	if r := d.Preflight(t.Context())[0].Probe(t.Context()); r.State != check.Succeeded {
		t.Errorf("%+v", r)
	}
}

// Another process sees the same environment.
func TestOtherProcess(t *testing.T) {
	_, d, _ := made(t)
	up(t, d)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "FAKE_TEST_OBSERVE="+d.StateDir, fake.HostVariable+"="+d.Host)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	want, err := d.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := json.Marshal(want); strings.TrimSpace(string(out)) != string(text) || want.Phase != driver.PhaseRunning {
		t.Errorf("seen from outside:\n%s\nfrom inside:\n%s", out, text)
	}
}
