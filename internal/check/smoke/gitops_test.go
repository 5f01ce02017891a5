package smoke

import (
	"context"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
)

// handOver has the fake two Applications as Argo CD keeps them.
func handOver(f *fakeAPI, names ...string) {
	for _, name := range names {
		f.put(map[string]any{
			"apiVersion": applicationAPI, "kind": "Application",
			"metadata": map[string]any{"name": name, "namespace": "argocd"},
			"spec":     map[string]any{"revisionHistoryLimit": int64(5), "source": map[string]any{"targetRevision": "r"}},
			"status": map[string]any{
				"sync": map[string]any{"status": "Synced", "revision": "r"}, "health": map[string]any{"status": "Healthy"},
				"operationState": map[string]any{"phase": "Succeeded"},
			},
		})
	}
}

func TestApplications(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*fakeAPI)
		state   check.State
		says    string
	}{
		"no Argo CD":      {func(f *fakeAPI) { f.unknown = "Application" }, check.Skipped, "gitops enable"},
		"not handed over": {func(*fakeAPI) {}, check.Skipped, "gitops enable"},
		"well":            {func(f *fakeAPI) { handOver(f, "orrery", "nats") }, check.Succeeded, "2 Applications"},
		"root is gone":    {func(f *fakeAPI) { handOver(f, "nats") }, check.Running, "'orrery gitops push' makes it anew"},
		"one is not": {func(f *fakeAPI) {
			handOver(f, "orrery", "nats")
			o := f.objects[key("Application", "argocd", "nats")]
			_ = unstructured.SetNestedField(o.Object, "OutOfSync", "status", "sync", "status")
		}, check.Running, "nats is OutOfSync, Healthy"},
	} {
		t.Run(name, func(t *testing.T) {
			f, env := newFake(t)
			c.prepare(f)
			if r := applications(t.Context(), env); r.State != c.state || !strings.Contains(r.Message, c.says) {
				t.Errorf("%v %q; want %v %q", r.State, r.Message, c.state, c.says)
			}
		})
	}
}

func TestDrift(t *testing.T) {
	limit := func(f *fakeAPI) int64 {
		n, _, _ := unstructured.NestedInt64(f.objects[key("Application", "argocd", "nats")].Object, "spec", "revisionHistoryLimit")
		return n
	}
	f, env := newFake(t)
	if r := drift(t.Context(), env); r.State != check.Skipped {
		t.Errorf("not handed over: %v %q", r.State, r.Message)
	}
	handOver(f, "nats", "orrery")
	f.healing = 3
	if r := drift(t.Context(), env); r.State != check.Succeeded || !strings.Contains(r.Message, "Application nats was changed by hand") || limit(f) != 5 {
		t.Errorf("healed: %v %q, limit %d", r.State, r.Message, limit(f))
	}
	f.healing = 0
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if r := drift(ctx, env); r.State != check.Failed || !strings.Contains(r.Message, "not changed back") || limit(f) != 5 {
		t.Errorf("nobody heals: %v %q, limit %d, want it put back", r.State, r.Message, limit(f))
	}
}
