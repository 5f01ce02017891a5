package app

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/gitops"
	"github.com/orrery-dev/orrery/internal/gitops/gitopstest"
	"github.com/orrery-dev/orrery/internal/kube/kubetest"
)

func TestGitOps(t *testing.T) {
	s := newSmall(t)
	s.want(exitFailed, "gitops status", `there is no environment "small"`)
	s.up()
	s.want(exitOK, "gitops status", "Orrery applies this environment", "orrery gitops enable --env small")
	s.want(exitRefused, "gitops push", "'orrery gitops enable --env small' hands it over to Argo CD first")
	s.want(exitRefused, "gitops enable", "'orrery deploy argocd --env small' deploys it")
	s.want(exitOK, "gitops disable", "nothing was handed over")

	a := gitopstest.Deploy(t, s.cluster.API, s.repository)
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
	a.Break("shop", gitopstest.Broken{Phase: "Failed", Refused: "denied: the image has no digest"})
	s.await("gitops status", exitFailed, "Deployment shop: denied: the image has no digest")
	s.want(exitFailed, "gitops push", "shop did not get through", "denied: the image has no digest")
	s.want(exitOK, "status", "Argo CD: OutOfSync, Healthy: Deployment shop: denied: the image has no digest")
	a.Break("shop", gitopstest.Broken{})
	s.want(exitOK, "gitops push", "all synced")
	s.refusals(a)
	s.sources()
	s.gitSource(a)

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
func (s *small) refusals(a *gitopstest.Argo) {
	const denied = `ValidatingAdmissionPolicy 'orrery-images' with binding 'orrery-images' denied request: container shop: image "x" has no digest`
	pods := kubetest.Ref{Kind: "Deployment", Namespace: "shop", Name: "shop"}
	for _, c := range []struct {
		name string
		how  gitopstest.Broken
		pods string // why they are refused
		push []string
		not  string
	}{
		{"an object", gitopstest.Broken{Phase: "Running", Refused: `admission webhook "w" denied the request: no`}, "",
			[]string{"shop did not get through", "denied the request: no"}, "seen last"},
		{"its pods", gitopstest.Broken{Health: "Progressing"}, `pods "shop-0" is forbidden: ` + denied,
			[]string{"shop did not get through", "its pods are refused", "has no digest"}, "seen last"},
		{"a quota", gitopstest.Broken{Health: "Progressing"}, `pods "shop-0" is forbidden: exceeded quota: few`,
			[]string{"not synced and healthy within 6s; what was seen last:\nshop is Synced, Progressing", "exceeded quota"}, "get through"},
		{"what is in a namespace that does not go away", gitopstest.Broken{Phase: "Running", Refused: "namespace shop because it is being terminated"}, "",
			[]string{"within 6s", "namespace shop because it is being terminated"}, "get through"},
		{"a CR before its CRD", gitopstest.Broken{Phase: "Running", Refused: `the server could not find the requested resource. Make sure the CRD is installed`}, "",
			[]string{"within 6s", "Make sure the CRD is installed"}, "get through"},
		{"a sync that begins anew", gitopstest.Broken{Phase: "Running", Refused: "the object has been modified"}, "",
			[]string{"within 6s", "the object has been modified"}, "get through"},
	} {
		if c.pods != "" {
			s.cluster.API.Hold(pods, "FailedCreate: "+c.pods)
		}
		a.Break("shop", c.how)
		said := cmp.Or(c.pods, c.how.Refused)
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
		a.Break("shop", gitopstest.Broken{})
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
