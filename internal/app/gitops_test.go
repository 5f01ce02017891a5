package app

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/gitops"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/kube/kubetest"
)

// argo is as much of Argo CD as a hand-over shows: it reads the artifacts that Applications name, makes
// the Applications of the root's, and says how they are. What it applies it leaves as it is.
type argo struct {
	t      *testing.T
	client *kube.Client
	// broken says, by component, what its status is in place of a good one; guarded by mu.
	mu     sync.Mutex
	broken map[string]broken
}

// broken is how an Application of the test is.
type broken struct {
	phase, refused string // of its sync, and what the server said to its Deployment
	health         string // of its Deployment
}

// deployArgo puts what of Argo CD is looked at into the cluster, and runs one until the test ends.
func deployArgo(s *small) *argo {
	t := s.t
	t.Helper()
	client, err := kube.ConnectWith(s.cluster.API.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	text := "{apiVersion: v1, kind: Namespace, metadata: {name: argocd}}\n"
	for _, name := range []string{"argocd-controller", "argocd-repo-server"} {
		text += "---\n{apiVersion: apps/v1, kind: Deployment, metadata: {name: " + name + ", namespace: argocd}, spec: {replicas: 1, selector: {matchLabels: {app: " + name + "}}, template: {metadata: {labels: {app: " + name + "}}}}}\n"
	}
	for _, kind := range []string{"application", "appproject"} {
		crd, err := os.ReadFile(s.repository + "/infra/k8s/base/argocd/crds/" + kind + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		text += "---\n" + string(crd)
	}
	objs, err := kube.Objects([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Apply(t.Context(), gitops.Component, objs); err != nil {
		t.Fatal(err)
	}
	a := &argo{t: t, client: client, broken: map[string]broken{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := a.look(ctx); err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				t.Errorf("Argo CD of the test: %v", err)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done; client.Close() })
	return a
}

func (a *argo) breaks(component string, how broken) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.broken[component] = how
}

// look is one round of the controller.
func (a *argo) look(ctx context.Context) error {
	apps, err := a.client.List(ctx, "argoproj.io/v1alpha1", "Application", gitops.Namespace, "")
	if err != nil {
		return err
	}
	for _, app := range apps {
		digest, manifest, unread := a.read(ctx, &app)
		if app.GetName() == gitops.Root && unread == nil {
			if err := a.client.ApplyObjects(ctx, manifest); err != nil {
				return err
			}
		}
		a.mu.Lock()
		how := a.broken[app.GetName()]
		a.mu.Unlock()
		status := map[string]any{
			"sync": map[string]any{"status": "Synced", "revision": digest}, "health": map[string]any{"status": "Healthy"},
			"operationState": map[string]any{"phase": "Succeeded", "syncResult": map[string]any{"revision": digest, "resources": []any{}}},
		}
		if how.phase != "" {
			status["sync"] = map[string]any{"status": "OutOfSync", "revision": digest}
			status["operationState"] = map[string]any{"phase": how.phase, "syncResult": map[string]any{"revision": digest, "resources": []any{
				map[string]any{"kind": "Deployment", "name": app.GetName(), "status": "SyncFailed", "message": how.refused},
			}}}
		}
		status["conditions"], status["resources"] = nil, nil
		if unread != nil {
			status["sync"] = map[string]any{"status": "Unknown"}
			status["conditions"] = []any{map[string]any{"type": "ComparisonError", "message": unread.Error()}}
		}
		if how.health != "" {
			status["health"] = map[string]any{"status": how.health}
			status["resources"] = []any{map[string]any{"group": "apps", "version": "v1", "kind": "Deployment", "namespace": app.GetName(), "name": app.GetName(),
				"health": map[string]any{"status": how.health, "message": "Waiting for rollout to finish"}}}
		}
		ref := kube.RefOf(&app)
		ref.APIVersion, ref.Kind = "argoproj.io/v1alpha1", "Application"
		if err := a.client.MergePatch(ctx, ref, map[string]any{"status": status}); err != nil {
			return err
		}
	}
	return nil
}

// read is what an Application's source has.
func (a *argo) read(ctx context.Context, app *unstructured.Unstructured) (digest string, manifest []*unstructured.Unstructured, err error) {
	url, _, _ := unstructured.NestedString(app.Object, "spec", "source", "repoURL")
	revision, _, _ := unstructured.NestedString(app.Object, "spec", "source", "targetRevision")
	sep := ":"
	if strings.Contains(revision, ":") {
		sep = "@"
	}
	ref, err := name.ParseReference(strings.TrimPrefix(url, "oci://")+sep+revision, name.Insecure)
	if err != nil {
		return "", nil, err
	}
	image, err := remote.Image(ref, remote.WithContext(ctx))
	if err != nil {
		return "", nil, err
	}
	d, err := image.Digest()
	if err != nil {
		return "", nil, err
	}
	text, err := gitops.Manifest(image)
	if err != nil {
		return "", nil, err
	}
	manifest, err = kube.Objects(text)
	return d.String(), manifest, err
}

func TestGitOps(t *testing.T) {
	s := newSmall(t)
	s.want(exitFailed, "gitops status", `there is no environment "small"`)
	s.up()
	s.want(exitOK, "gitops status", "Orrery applies this environment", "orrery gitops enable --env small")
	s.want(exitRefused, "gitops push", "'orrery gitops enable --env small' hands it over to Argo CD first")
	s.want(exitRefused, "gitops enable", "'orrery deploy argocd --env small' deploys it")
	s.want(exitOK, "gitops disable", "nothing was handed over")

	a := deployArgo(s)
	shop := func() *unstructured.Unstructured { return s.cluster.API.Get("apps/v1", "Deployment", "shop", "shop") }
	before := shop()
	s.want(exitOK, "gitops enable", "Argo CD applies 3 components, all synced and healthy")
	s.want(exitOK, "gitops enable", "nothing changed")
	if after := shop(); after.GetGeneration() != before.GetGeneration() {
		t.Errorf("generation %d became %d: pods are restarted", before.GetGeneration(), after.GetGeneration())
	}
	s.want(exitOK, "gitops status", "Argo CD applies this environment", "shop", "Synced", "Healthy")
	s.want(exitOK, "gitops diff")
	s.want(exitOK, "gitops push", "nothing changed")
	s.want(exitOK, "up", "Argo CD applies 3 components: 'orrery gitops push --env small'")
	s.want(exitOK, "images prune --mirror --dry-run")
	if asked := s.cluster.Pruned(); asked == nil || !strings.Contains(strings.Join(asked.InUse, " "), s.revision("shop")) {
		t.Errorf("the artifact that Argo CD follows may be freed: in use are %+v", asked)
	}

	// What was refused is said, with why.
	a.breaks("shop", broken{phase: "Failed", refused: "denied: the image has no digest"})
	s.await("gitops status", exitFailed, "Deployment shop: denied: the image has no digest")
	s.want(exitFailed, "gitops push", "shop did not get through", "denied: the image has no digest")
	s.want(exitOK, "status", "Argo CD: OutOfSync, Healthy: Deployment shop: denied: the image has no digest")
	a.breaks("shop", broken{})
	s.want(exitOK, "gitops push", "all synced")
	s.refusals(a)
	s.sources(a)

	s.want(exitOK, "gitops disable", "Orrery applies 3 components again")
	s.want(exitOK, "gitops disable", "nothing was handed over")
	for _, kind := range []string{"Application", "AppProject"} {
		if left := s.cluster.API.List("argoproj.io/v1alpha1", kind, "argocd"); len(left) > 0 {
			t.Errorf("%d of %s are left", len(left), kind)
		}
	}
	s.want(exitOK, "up")
	s.want(exitOK, "up", "nothing to do")
	if after := shop(); after.GetGeneration() != before.GetGeneration() {
		t.Errorf("generation %d became %d: pods were restarted", before.GetGeneration(), after.GetGeneration())
	}
}

// refusals: what admission denies is known at once, though Argo CD goes on trying, and Kubernetes too. What
// may pass is waited for, and what was seen last is said.
func (s *small) refusals(a *argo) {
	const denied = `ValidatingAdmissionPolicy 'orrery-images' with binding 'orrery-images' denied request: container shop: image "x" has no digest`
	pods := kubetest.Ref{Kind: "Deployment", Namespace: "shop", Name: "shop"}
	for _, c := range []struct {
		name string
		how  broken
		pods string // why they are refused
		push []string
		not  string
	}{
		{"an object", broken{phase: "Running", refused: `admission webhook "w" denied the request: no`}, "",
			[]string{"shop did not get through", "denied the request: no"}, "seen last"},
		{"its pods", broken{health: "Progressing"}, `pods "shop-0" is forbidden: ` + denied,
			[]string{"shop did not get through", "its pods are refused", "has no digest"}, "seen last"},
		{"a quota", broken{health: "Progressing"}, `pods "shop-0" is forbidden: exceeded quota: few`,
			[]string{"not synced and healthy within 6s; what was seen last:\nshop is Synced, Progressing", "exceeded quota"}, "get through"},
		{"what is in a namespace that does not go away", broken{phase: "Running", refused: "namespace shop because it is being terminated"}, "",
			[]string{"within 6s", "namespace shop because it is being terminated"}, "get through"},
		{"a CR before its CRD", broken{phase: "Running", refused: `the server could not find the requested resource. Make sure the CRD is installed`}, "",
			[]string{"within 6s", "Make sure the CRD is installed"}, "get through"},
		{"a sync that begins anew", broken{phase: "Running", refused: "the object has been modified"}, "",
			[]string{"within 6s", "the object has been modified"}, "get through"},
	} {
		if c.pods != "" {
			s.cluster.API.Hold(pods, "FailedCreate: "+c.pods)
		}
		a.breaks("shop", c.how)
		said := cmp.Or(c.pods, c.how.refused)
		s.await("gitops status", exitFailed, said[len(said)-20:])
		_, out, errs := s.run("gitops", "push", "--timeout", "6s")
		for _, part := range c.push {
			if !strings.Contains(errs, part) {
				s.t.Errorf("%s is refused: push does not say %q:\n%s%s", c.name, part, out, errs)
			}
		}
		if strings.Contains(errs, c.not) || strings.Contains(errs, "context deadline") {
			s.t.Errorf("%s is refused: push says\n%s", c.name, errs)
		}
		a.breaks("shop", broken{})
		s.cluster.API.Release(pods)
		s.want(exitOK, "gitops push", "all synced")
	}
}

// revision is what the status says of an Application.
func (s *small) revision(component string) string {
	s.t.Helper()
	var g struct {
		Applications []gitops.Status `json:"applications"`
	}
	if err := json.Unmarshal([]byte(s.want(exitOK, "gitops status -o json")), &g); err != nil {
		s.t.Fatal(err)
	}
	for _, a := range g.Applications {
		if a.Component == component {
			return a.Revision
		}
	}
	s.t.Fatalf("no Application %s", component)
	return ""
}

// await repeats a verb that looks until it ends and says as is wanted.
func (s *small) await(command string, code int, part string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	if err := check.Until(ctx, check.Pause{First: 20 * time.Millisecond}, func() error {
		if got, out, errs := s.run(strings.Fields(command)...); got != code || !strings.Contains(out+errs, part) {
			return fmt.Errorf("orrery %s: exit status %d, no %q in\n%s%s", command, got, part, out, errs)
		}
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
}
