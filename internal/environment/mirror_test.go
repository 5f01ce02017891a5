package environment

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/kube/kubetest"
)

func digest(of string) string { return "sha256:" + strings.Repeat(of, 64) }

// What a workload names anywhere stays, and what the lock does; when the cluster cannot be asked,
// nothing is touched.
func TestPruneMirrorSparesWhatIsInUse(t *testing.T) {
	s := newSmall(t)
	s.mustUp(Selection{})
	s.cluster.API.Put(object("apps/v1", "ReplicaSet", "spec", map[string]any{"replicas": int64(0), "template": map[string]any{
		"spec": map[string]any{"containers": []any{map[string]any{"name": "a", "image": "registry.orrery.internal/a@" + digest("a")}}}}}))
	s.cluster.API.Put(object("batch/v1", "CronJob", "spec", map[string]any{"jobTemplate": map[string]any{"image": "b@" + digest("b")}}))
	s.cluster.API.Put(object("v1", "Pod", "spec", map[string]any{"volumes": []any{map[string]any{
		"name": "v", "image": map[string]any{"reference": "registry.orrery.internal/c:1@" + digest("c")}}}}))
	s.request.Verb = ""
	e, err := Existing(s.request)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.PruneMirror(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	asked := s.cluster.Pruned()
	if asked == nil || !asked.DryRun {
		t.Fatalf("asked: %+v", asked)
	}
	want := []string{digest("a"), digest("b"), digest("c")}
	for _, img := range s.platform.Images {
		want = append(want, img.Digest)
	}
	for _, d := range want {
		if !slices.Contains(asked.InUse, d) {
			t.Errorf("%s is not in use", d)
		}
	}
	s.cluster.API.Inject(kubetest.Fault{Method: "GET", Path: "/apis/batch/v1/cronjobs", Status: 403})
	if _, err := e.PruneMirror(t.Context(), false); err == nil || !strings.Contains(err.Error(), "nothing was removed") {
		t.Errorf("when the cluster does not tell: %v", err)
	}
	if !s.cluster.Pruned().DryRun {
		t.Error("something was removed all the same")
	}
}

func object(apiVersion, kind string, field string, value any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{"namespace": "apps", "name": "x"}, field: value,
	}}
}

// A tag that another tool pushed anew: who still runs what it named is told, with the digest to use.
func TestStatusNamesWhoRunsAMovedTag(t *testing.T) {
	s := newSmall(t)
	s.mustUp(Selection{})
	push := func() string {
		t.Helper()
		img, err := random.Image(100, 1)
		if err != nil {
			t.Fatal(err)
		}
		tag, err := name.NewTag(s.cluster.Registry()+"/team/app:1", name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(tag, img); err != nil {
			t.Fatal(err)
		}
		d, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return d.String()
	}
	s.request.Verb = ""
	first := push()
	pod := func(name, image, runs string) {
		o := object("v1", "Pod", "spec", map[string]any{"containers": []any{map[string]any{"name": "c", "image": image}}})
		o.SetName(name)
		o.SetLabels(map[string]string{"pod-template-hash": "abc"})
		o.Object["metadata"].(map[string]any)["ownerReferences"] = []any{
			map[string]any{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "hello-abc", "uid": "u", "controller": true}}
		o.Object["status"] = map[string]any{"containerStatuses": []any{map[string]any{"name": "c", "imageID": "registry.orrery.internal/" + runs}}}
		s.cluster.API.Put(o)
	}
	pod("old", "registry.orrery.internal/team/app:1", "team/app@"+first)
	pod("old-2", "registry.orrery.internal/team/app:1", "team/app@"+first)
	pod("pinned", "registry.orrery.internal/team/app:1@"+first, "team/app@"+first)
	pod("elsewhere", "registry.orrery.internal/team/gone:1", "team/gone@"+first)
	warnings := func() []string {
		t.Helper()
		e, err := Existing(s.request)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		st, err := e.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return st.Warnings
	}
	if w := warnings(); len(w) > 0 {
		t.Errorf("before the tag moved: %q", w)
	}
	second := push()
	pod("new", "registry.orrery.internal/team/app:1", "team/app@"+second)
	want := fmt.Sprintf("Deployment apps/hello runs team/app:1 as it was, %s. The tag has moved since; "+
		"for all its pods to run the same: registry.orrery.internal/team/app:1@%s", first, second)
	if w := warnings(); len(w) != 1 || w[0] != want {
		t.Errorf("after: %q, want %q", w, want)
	}
}
