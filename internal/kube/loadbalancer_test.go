package kube

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// warned keeps what the API server warns of.
type warned struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (w *warned) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

// take is what was said since the last time.
func (w *warned) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.text.Reset()
	return w.text.String()
}

// Somebody else's cluster may have a load balancer: there, nothing is said.
func TestLoadBalancerOfSomebodyElse(t *testing.T) {
	existing, err := shipped(t).Existing(nil)
	if err != nil {
		t.Fatal(err)
	}
	selected, err := existing.Select("local", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range selected {
		if c.Name == "no-load-balancer" {
			t.Error("it is deployed there")
		}
	}
}

// Whoever writes a Service of type LoadBalancer is told that nothing here gives it an address, and
// how to reach it; nothing is refused, and nobody else is told.
func TestLoadBalancerIsWarned(t *testing.T) {
	said := &warned{}
	c := connect(t, WithLog(slog.New(slog.NewTextHandler(said, nil))))
	withControllers(t)
	ctx := t.Context()
	cat := shipped(t)
	const component = "no-load-balancer"
	facts := testFacts
	facts.Environment = "demo"
	objs, err := Render(RenderInput{Component: cat.Components[component], Overlay: cat.Overlays["local"], Facts: facts})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Remove(context.Background(), component); err != nil {
			t.Error(err)
		}
	})
	if _, err := c.Apply(ctx, component, objs); err != nil {
		t.Fatal(err)
	}
	service := func(name, kind string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "Service", "metadata": map[string]any{"name": name, "namespace": "default"},
			"spec": map[string]any{"type": kind, "ports": []any{map[string]any{"port": int64(80)}}},
		}}
	}
	classed := service("a", "LoadBalancer")
	classed.Object["spec"].(map[string]any)["loadBalancerClass"] = "example.com/mine"
	const says = "EXTERNAL-IP of Service default/a stays <pending>. From the host, reach it with: orrery open default/a --env demo"
	eventually(t, func() error {
		if err := c.DryRun(ctx, service("a", "LoadBalancer")); err != nil {
			return err
		}
		if got := said.take(); !strings.Contains(got, says) {
			return fmt.Errorf("warned: %q", got)
		}
		return nil
	})
	for name, o := range map[string]*unstructured.Unstructured{
		"ClusterIP": service("a", "ClusterIP"), "NodePort": service("a", "NodePort"), "with a class": classed,
	} {
		if err := c.DryRun(ctx, o); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := said.take(); strings.Contains(got, "load balancer") {
			t.Errorf("%s: warned: %s", name, got)
		}
	}

	// It is said at every change, until somebody gives it an address.
	if err := c.Create(ctx, service("a", "LoadBalancer")); err != nil {
		t.Fatal(err)
	}
	services, err := c.resource(ctx, "v1", "Service", "default")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Delete(context.Background(), "v1", "Service", "default", "a", 0); err != nil {
			t.Error(err)
		}
	})
	change := func(value string) string {
		t.Helper()
		said.take()
		live, err := c.Get(ctx, "v1", "Service", "default", "a")
		if err != nil {
			t.Fatal(err)
		}
		live.SetLabels(map[string]string{"changed": value})
		if _, err := services.Update(ctx, live, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		return said.take()
	}
	if got := change("once"); !strings.Contains(got, says) {
		t.Errorf("warned: %q", got)
	}
	live, err := c.Get(ctx, "v1", "Service", "default", "a")
	if err != nil {
		t.Fatal(err)
	}
	live.Object["status"] = map[string]any{"loadBalancer": map[string]any{"ingress": []any{map[string]any{"ip": "192.0.2.1"}}}}
	if _, err := services.UpdateStatus(ctx, live, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := change("twice"); strings.Contains(got, "load balancer") {
		t.Errorf("one with an address: warned: %s", got)
	}
}
