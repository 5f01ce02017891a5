package kube

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

var (
	listed   = "registry.orrery.internal/nats:v1@sha256:" + strings.Repeat("1a", 32)
	allowed  = "ghcr.io/acme/tool@sha256:" + strings.Repeat("2b", 32)
	unlisted = "registry.orrery.internal/nats:v1@sha256:" + strings.Repeat("3c", 32)
)

// policyPod is a pod that only the image policy can object to.
func policyPod(namespace, name string, images ...string) *unstructured.Unstructured {
	secure := map[string]any{
		"allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": map[string]any{"drop": []any{"ALL"}},
		"seccompProfile": map[string]any{"type": "RuntimeDefault"},
	}
	var containers []any
	for i, image := range images {
		containers = append(containers, map[string]any{"name": string(rune('a' + i)), "image": image, "securityContext": secure})
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": map[string]any{"name": name, "namespace": namespace},
		"spec":     map[string]any{"automountServiceAccountToken": false, "containers": containers},
	}}
}

func with(pod *unstructured.Unstructured, field string, value ...any) *unstructured.Unstructured {
	pod.Object["spec"].(map[string]any)[field] = value
	return pod
}

// applyPolicy applies the two components and waits until the policy is in force.
func applyPolicy(t *testing.T, c *Client, facts Facts) {
	t.Helper()
	cat := shipped(t)
	for _, name := range []string{"namespaces", "image-policy"} {
		objs, err := Render(RenderInput{Component: cat.Components[name], Overlay: cat.Overlays["local"], Facts: facts, Files: absentFiles(cat.Components[name])})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Apply(t.Context(), name, objs); err != nil {
			t.Fatal(err)
		}
	}
}

// eventually retries f for a while: policies, parameters and namespaces reach the API
// server's admission a moment after they are written.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

var errLetIn = errors.New("the pod was let in")

func TestImagePolicy(t *testing.T) {
	c := connect(t)
	withControllers(t)
	ctx := t.Context()
	facts := testFacts
	facts.AllowedImages = []string{listed, allowed}
	applyPolicy(t, c, facts)
	t.Cleanup(func() {
		for _, name := range []string{"image-policy", "namespaces"} {
			if err := c.Remove(context.Background(), name); err != nil {
				t.Error(err)
			}
		}
	})
	eventually(t, func() error {
		if c.DryRun(ctx, policyPod("platform", "x", unlisted)) == nil {
			return errLetIn
		}
		return c.DryRun(ctx, policyPod("platform", "x", listed))
	})

	init := map[string]any{"name": "i", "image": "nginx:1", "securityContext": policyPod("", "", listed).Object["spec"].(map[string]any)["containers"].([]any)[0].(map[string]any)["securityContext"]}
	volume := map[string]any{"name": "v", "image": map[string]any{"reference": unlisted}}
	for _, tt := range []struct {
		name string
		pod  *unstructured.Unstructured
		want []string // nil: let in
	}{
		{"listed", policyPod("platform", "p", listed), nil},
		{"listed, under another name", policyPod("data", "p", "mirror.example.com/x/nats@sha256:"+strings.Repeat("1a", 32)), nil},
		{"allowed", policyPod("messaging", "p", allowed), nil},
		{"both", policyPod("observability", "p", listed, allowed), nil},
		{"unlisted digest", policyPod("messaging", "p", listed, unlisted), []string{`container b: image "` + unlisted + `" is neither in orrery.lock nor allowed`, "images.allow of orrery.yaml"}},
		{"tag", policyPod("data", "p", "registry.orrery.internal/nats:v1"), []string{`container a: image "registry.orrery.internal/nats:v1" has no digest`, "Namespace data runs only"}},
		{"tampered digest", policyPod("platform", "p", listed[:len(listed)-1]+"0"), []string{"is neither in orrery.lock nor allowed"}},
		{"short digest", policyPod("platform", "p", listed[:len(listed)-1]), []string{"container a"}},
		{"no digest after @", policyPod("platform", "p", "nats@"), []string{"container a"}},
		{"digest twice", policyPod("platform", "p", "x@sha256:"+strings.Repeat("3c", 32)+"@sha256:"+strings.Repeat("1a", 32)), []string{"container a"}},
		{"lines", policyPod("platform", "p", "x@sha256:"+strings.Repeat("3c", 32)+"\n"+listed), []string{"an image is not named by a digest"}},
		{"init container", with(policyPod("platform", "p", listed), "initContainers", init), []string{`init container i: image "nginx:1" has no digest`}},
		{"image volume", with(policyPod("platform", "p", listed), "volumes", volume), []string{`volume v: image "` + unlisted + `" is neither`}},
		{"two at once", policyPod("platform", "p", "a:1", "b:2"), []string{`container a: image "a:1"`, `; container b: image "b:2"`}},
		{"agents", policyPod("observability-agents", "p", "nginx"), []string{"container a"}},
		{"apps", policyPod("apps", "p", "nginx:1"), nil},
		{"kube-system", policyPod("kube-system", "p", "nginx:1"), nil},
		{"default", policyPod("default", "p", "nginx:1"), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := c.DryRun(ctx, tt.pod)
			if tt.want == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) {
				t.Fatalf("want it refused, got %v", err)
			}
			for _, want := range tt.want {
				if !apierrors.IsInvalid(err) && !strings.Contains(err.Error(), want) {
					t.Errorf("%v\ndoes not say %q", err, want)
				}
			}
		})
	}
	t.Run("running pods", func(t *testing.T) { testRunningPods(t, c, facts) })
	t.Run("warn", func(t *testing.T) {
		warn := facts
		warn.ImageAction = "Warn"
		applyPolicy(t, c, warn)
		eventually(t, func() error { return c.DryRun(ctx, policyPod("platform", "x", unlisted)) })
		applyPolicy(t, c, facts)
		eventually(t, func() error { return refused(c.DryRun(ctx, policyPod("platform", "x", unlisted))) })
	})
	t.Run("without its parameter", func(t *testing.T) {
		if err := c.Delete(ctx, "v1", "ConfigMap", "platform", "image-policy", 0); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error { return refused(c.DryRun(ctx, policyPod("platform", "x", listed))) })
		applyPolicy(t, c, facts) // nothing locks that out
		eventually(t, func() error { return c.DryRun(ctx, policyPod("platform", "x", listed)) })
	})
	t.Run("removed", func(t *testing.T) {
		if err := c.Remove(ctx, "image-policy"); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error { return c.DryRun(ctx, policyPod("platform", "x", unlisted)) })
	})
}

func refused(err error) error {
	if err == nil {
		return errLetIn
	}
	// A policy that cannot be evaluated denies as invalid.
	if !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) {
		return err
	}
	return nil
}

// testRunningPods: what a pod has it keeps, whatever is listed later; what it gets is judged.
func testRunningPods(t *testing.T, c *Client, facts Facts) {
	ctx := t.Context()
	if err := c.Create(ctx, policyPod("platform", "old", listed)); err != nil {
		t.Fatal(err)
	}
	pods, err := c.resource(ctx, "v1", "Pod", "platform")
	if err != nil {
		t.Fatal(err)
	}
	later := facts
	later.AllowedImages = []string{allowed}
	applyPolicy(t, c, later)
	defer applyPolicy(t, c, facts)
	eventually(t, func() error { return refused(c.DryRun(ctx, policyPod("platform", "x", listed))) })
	update := func(change func(*unstructured.Unstructured), subresources ...string) error {
		live, err := c.Get(ctx, "v1", "Pod", "platform", "old")
		if err != nil {
			t.Fatal(err)
		}
		change(live)
		_, err = pods.Update(ctx, live, metav1.UpdateOptions{}, subresources...)
		return err
	}
	image := func(ref string) func(*unstructured.Unstructured) {
		return func(o *unstructured.Unstructured) {
			o.Object["spec"].(map[string]any)["containers"].([]any)[0].(map[string]any)["image"] = ref
		}
	}
	ephemeral := func(ref string) func(*unstructured.Unstructured) {
		return func(o *unstructured.Unstructured) {
			with(o, "ephemeralContainers", map[string]any{"name": "debug", "image": ref, "securityContext": map[string]any{
				"allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": map[string]any{"drop": []any{"ALL"}}, "seccompProfile": map[string]any{"type": "RuntimeDefault"},
			}})
		}
	}
	if err := update(func(o *unstructured.Unstructured) { o.SetFinalizers([]string{"orrery.dev/test"}) }); err != nil {
		t.Errorf("a label of a pod that is no longer listed: %v", err)
	}
	if err := update(func(o *unstructured.Unstructured) { o.SetFinalizers(nil) }); err != nil {
		t.Errorf("the finalizer of a pod that is no longer listed: %v", err)
	}
	if err := update(image("busybox:1")); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `container a: image "busybox:1" has no digest`) {
		t.Errorf("another image: %v", err)
	}
	if err := update(ephemeral("busybox:1"), "ephemeralcontainers"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `ephemeral container debug: image "busybox:1"`) {
		t.Errorf("an ephemeral container: %v", err)
	}
	if err := update(ephemeral(allowed), "ephemeralcontainers"); err != nil {
		t.Errorf("an allowed ephemeral container: %v", err)
	}
	if err := update(image(allowed)); err != nil {
		t.Errorf("an allowed image: %v", err)
	}
	if err := c.Delete(ctx, "v1", "Pod", "platform", "old", 0); err != nil {
		t.Error(err)
	}
}
