package smoketest_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/check/smoke"
	"github.com/orrery-dev/orrery/internal/check/smoke/smoketest"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/driver/fake"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/kube/kubetest"
	"github.com/orrery-dev/orrery/internal/spec"
)

type noJournal struct{}

func (noJournal) Begin(driver.Effect) error  { return nil }
func (noJournal) Undone(driver.Effect) error { return nil }

// environment is a running one of the fake driver, whose pods answer.
func environment(t *testing.T) (*fake.Cluster, smoke.Env) {
	t.Helper()
	host := fake.NewHost(t)
	e := spec.Named("smoke")
	e.Network.Plugin = spec.PluginPTP
	state := filepath.Join(t.TempDir(), e.Name)
	d, err := fake.New(fake.Options{Spec: e, StateDir: state, Journal: noJournal{}, Host: host.URL()})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	cluster := host.Cluster(e.Name)
	smoketest.Install(cluster.API)
	c, err := kube.Connect(filepath.Join(state, "kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	cluster.API.Put(&unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace",
		"metadata": map[string]any{"name": "apps"}}})
	return cluster, smoke.Env{Client: c, Spec: e, Observe: d.Observe, Images: map[string]string{"probe": "registry.orrery.internal/probe:1"}}
}

func probe(ctx context.Context, env smoke.Env, name string) check.Result {
	return smoke.Checks(env)[name]("cluster")[0].Probe(ctx)
}

// The checks of every cluster hold on one that is as it should be.
func TestClusterChecks(t *testing.T) {
	_, env := environment(t)
	for _, name := range smoke.ClusterChecks {
		t.Run(name, func(t *testing.T) {
			want := check.Succeeded
			switch name {
			case "network-policy": // ptp enforces none
				want = check.Skipped
			case "at-rest", "audit": // no etcd and no log files are behind this API
				want = check.Skipped
			}
			if r := probe(t.Context(), env, name); r.State != want {
				t.Errorf("%+v", r)
			}
		})
	}
}

// They do not on one that is not.
func TestNotWell(t *testing.T) {
	cluster, env := environment(t)
	cluster.SetDown("server2", true)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if r := probe(ctx, env, "apiservers"); r.State != check.Failed || !strings.Contains(r.Message, "10.89.0.12") {
		t.Errorf("%+v", r)
	}
	cluster.SetDown("server2", false)
	cluster.API.HandleExec(nil)
	ctx, cancel = context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if r := probe(ctx, env, "datapath"); r.State != check.Failed {
		t.Errorf("without anybody who answers: %+v", r)
	}
}

func TestUnknownCommand(t *testing.T) {
	s := kubetest.New(t)
	run := smoketest.Probe(s)
	for _, command := range [][]string{{"sh"}, {"/probe", "sing", "x"}} {
		if out, err := run(kubetest.Exec{Namespace: "default", Pod: "nobody", Command: command}); err == nil {
			t.Errorf("%q gave %q", command, out)
		}
	}
}
