package k3d

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/driver/drivertest"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/ui"
)

// TestLife takes a cluster of one server and one agent through its life, on the engine and with the
// k3d that are here. ORRERY_TEST_K3D_DIST is the folder dist of an environment with driver: k3d.
func TestLife(t *testing.T) {
	dist := os.Getenv("ORRERY_TEST_K3D_DIST")
	if dist == "" {
		t.Skip("ORRERY_TEST_K3D_DIST is not set: it names the folder dist of an environment that 'orrery up' made with driver: k3d")
	}
	e := environment("life")
	agents := 1
	e.Servers, e.Agents = 1, &agents
	e.Ports.API, e.Ports.Registry, e.Network.Nodes = 26443, 25000, "10.97.0.0/24"
	dir := filepath.Join(t.TempDir(), "life")
	journal := &drivertest.Journal{}
	create := func() (driver.Driver, error) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		return New(driver.Options{Spec: e, StateDir: dir, Journal: journal, Sink: ui.Discard, Log: slog.New(slog.DiscardHandler), Timeout: 4 * time.Minute})
	}
	d, err := create()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range d.Preflight(t.Context()) {
		r := c.Probe(t.Context())
		t.Logf("%s: %s %s", c.Name, r.State, r.Message)
		if r.State == check.Failed {
			t.Skipf("preflight %s: %s", c.Name, r.Message)
		}
	}
	configMap := func(key string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"namespace": "default", "name": key},
		}}
	}
	with := func(kubeconfig string, f func(*kube.Client) error) error {
		c, err := kube.Connect(kubeconfig)
		if err != nil {
			return err
		}
		defer c.Close()
		return f(c)
	}
	drivertest.Run(t, drivertest.Subject{
		New: func() (driver.Driver, error) {
			d, err := create()
			if err != nil {
				return nil, err
			}
			// What 'orrery up' would put there before the driver is asked.
			if _, err := os.Lstat(filepath.Join(dir, "dist")); err != nil {
				err = os.Symlink(dist, filepath.Join(dir, "dist"))
				return d, err
			}
			return d, nil
		},
		Put: func(ctx context.Context, kubeconfig, key string) error {
			return with(kubeconfig, func(c *kube.Client) error { return c.Create(ctx, configMap(key)) })
		},
		Get: func(ctx context.Context, kubeconfig, key string) error {
			return with(kubeconfig, func(c *kube.Client) error {
				_, err := c.Get(ctx, "v1", "ConfigMap", "default", key)
				return err
			})
		},
	})
	if live := journal.Live(); len(live) > 0 {
		t.Errorf("journal still has %+v", live)
	}
	if err := os.RemoveAll(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
