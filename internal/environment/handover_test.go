package environment

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/gitops"
	"github.com/orrery-dev/orrery/internal/gitops/gitopstest"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/ui"
)

// argo runs Argo CD on the small platform.
func (s *small) argo() *gitopstest.Argo {
	s.t.Helper()
	return gitopstest.Deploy(s.t, s.cluster.API, s.repository)
}

// with runs one verb on the platform.
func (s *small) with(do func(*Platform) error) error {
	s.t.Helper()
	p := s.open(Selection{})
	return errors.Join(do(p), p.Close())
}

func (s *small) hand(push func(*Platform) (Pushed, error)) (pushed Pushed, err error) {
	s.t.Helper()
	err = s.with(func(p *Platform) (err error) {
		pushed, err = push(p)
		return err
	})
	return pushed, err
}

func (s *small) gitOps() (g GitOps) {
	s.t.Helper()
	if err := s.with(func(p *Platform) (err error) {
		g, err = p.GitOps(s.t.Context())
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	return g
}

// differs are the components that a push would change.
func (s *small) differs() []string {
	s.t.Helper()
	changes := map[string][]kube.Change{}
	if err := s.with(func(p *Platform) (err error) {
		changes, err = p.GitOpsDiff(s.t.Context())
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(changes))
}

// A platform is handed over and taken back, and what is pushed between runs; what is not there is
// refused with what to do.
func TestHandOver(t *testing.T) {
	s := newSmall(t)
	s.mustUp(Selection{Prune: true})
	ctx := t.Context()
	enable := func(p *Platform) (Pushed, error) { return p.EnableGitOps(ctx, "", time.Minute) }
	push := func(p *Platform) (Pushed, error) { return p.PushGitOps(ctx, time.Minute) }
	if g := s.gitOps(); g.Applier != "orrery" || !g.Good() {
		t.Errorf("%+v", g)
	}
	for part, verb := range map[string]func(*Platform) (Pushed, error){"orrery deploy argocd --env small": enable, "orrery gitops enable --env small": push} {
		if _, err := s.hand(verb); !failure.IsRefused(err) || !strings.Contains(err.Error(), part) {
			t.Errorf("%v, want %q", err, part)
		}
	}

	argo := s.argo()
	first, err := s.hand(enable)
	if err != nil || !slices.Equal(first.Components, []string{"namespaces", "planets", "shop"}) || !slices.Equal(first.Changed, first.Components) || first.Before != "" {
		t.Fatalf("%+v, %v", first, err)
	}
	if g := s.gitOps(); g.Applier != kube.ApplierArgoCD || !g.Good() || g.Revision != first.Revision || len(g.Applications) != 4 {
		t.Errorf("%+v", g)
	}
	if d := s.differs(); len(d) > 0 {
		t.Errorf("a push would change %v", d)
	}
	if p := s.plan(Selection{Prune: true}); !p.UpToDate() || !s.told(ui.TypeNotice, "Argo CD applies 3 components") {
		t.Errorf("up would do %q\n%s", changes(p), s.all())
	}

	s.edit("infra/k8s/base/shop/shop.yaml", "hello from", "welcome to")
	if d := s.differs(); !slices.Equal(d, []string{"shop"}) {
		t.Errorf("a push would change %v", d)
	}
	second, err := s.hand(push)
	if err != nil || !slices.Equal(second.Changed, []string{"shop"}) || second.Before != first.Revision || second.Revision == first.Revision {
		t.Errorf("%+v, %v", second, err)
	}

	argo.Break("shop", gitopstest.Broken{Phase: "Failed", Refused: "denied: the image has no digest"})
	s.edit("infra/k8s/base/shop/shop.yaml", "welcome to", "good morning from")
	if _, err := s.hand(push); err == nil || !strings.Contains(err.Error(), "denied: the image has no digest") {
		t.Errorf("%v", err)
	}
	if g := s.gitOps(); g.Good() {
		t.Errorf("%+v", g)
	}
	argo.Break("shop", gitopstest.Broken{})

	// What is no longer selected goes, and leaves nothing behind.
	s.configure("components: [shop]\n")
	third, err := s.hand(push)
	if err != nil || !slices.Equal(third.Removed, []string{"planets"}) || slices.Contains(third.Components, "planets") {
		t.Errorf("%+v, %v", third, err)
	}
	if s.cluster.API.Get("example.org/v1", "Planet", "shop", "jupiter") != nil {
		t.Error("what was removed is left")
	}

	var back []string
	disable := func(p *Platform) (err error) {
		back, err = p.DisableGitOps(ctx)
		return err
	}
	if err := s.with(disable); err != nil || !slices.Equal(back, []string{"namespaces", "shop"}) {
		t.Errorf("%v, %v", back, err)
	}
	if err := s.with(disable); err != nil || len(back) > 0 {
		t.Errorf("again: %v, %v", back, err)
	}
	for _, kind := range []string{"Application", "AppProject"} {
		if left := s.cluster.API.List(appVersion, kind, gitops.Namespace); len(left) > 0 {
			t.Errorf("%d of %s are left", len(left), kind)
		}
	}
	if g := s.gitOps(); g.Applier != "orrery" {
		t.Errorf("%+v", g)
	}
}

// With a git server, a push is two commits, and only what changed is at another one; going back is a commit too.
func TestHandOverWithGit(t *testing.T) {
	s := newSmall(t)
	s.mustUp(Selection{Prune: true})
	enable := func(source string) func(*Platform) (Pushed, error) {
		return func(p *Platform) (Pushed, error) { return p.EnableGitOps(t.Context(), source, time.Minute) }
	}
	argo := s.argo()
	if _, err := s.hand(enable("git")); !failure.IsRefused(err) || !strings.Contains(err.Error(), "gitops.source: git in orrery.yaml") {
		t.Errorf("%v", err)
	}
	g := argo.ServeGit(t, s.cluster.API)
	first, err := s.hand(enable("git"))
	if err != nil || !slices.Equal(first.Changed, []string{"namespaces", "planets", "shop"}) || first.Before != "" {
		t.Fatalf("%+v, %v", first, err)
	}
	revisions := func() map[string]string {
		t.Helper()
		status := s.gitOps()
		if !status.Good() || status.Source != "git" || status.Revision != status.Pushed {
			t.Errorf("%+v", status)
		}
		all := map[string]string{}
		for _, a := range status.Applications {
			all[a.Component] = a.Synced
		}
		return all
	}
	before := revisions()
	for _, change := range [][2]string{{"hello from", "welcome to"}, {"welcome to", "hello from"}} {
		s.edit("infra/k8s/base/shop/shop.yaml", change[0], change[1])
		if d := s.differs(); !slices.Equal(d, []string{"shop"}) {
			t.Errorf("a push would change %v", d)
		}
		pushed, err := s.hand(func(p *Platform) (Pushed, error) { return p.PushGitOps(t.Context(), time.Minute) })
		if err != nil || !slices.Equal(pushed.Changed, []string{"shop"}) {
			t.Errorf("%+v, %v", pushed, err)
		}
		now := revisions()
		if now["shop"] == before["shop"] || now["namespaces"] != before["namespaces"] || !strings.Contains(g.Run("show", now["shop"]+":shop/manifest.yaml"), change[1]) {
			t.Errorf("%v became %v", before, now)
		}
		before = now
	}
	if said := g.Run("log", "--format=%s", gitops.Branch); said != "Applications\nManifests: shop\nApplications\nManifests: shop\nApplications\nManifests: namespaces, planets, shop\n" {
		t.Errorf("the history is\n%s", said)
	}
	if again, err := s.hand(enable("")); err != nil || again.Revision != before[gitops.Root] {
		t.Errorf("enabled again, %v became %+v, %v", before, again, err)
	}
	back, err := s.hand(enable("oci"))
	if err != nil || len(back.Changed) != 3 || !strings.HasPrefix(back.Revision, "sha256:") || s.gitOps().Source != "oci" {
		t.Errorf("%+v, %v", back, err)
	}
}

// mirrorless is a driver of clusters that somebody else made: it has no mirror.
type mirrorless struct{ driver.Driver }

// What has no mirror cannot be handed over, which is said before anything is asked or changed.
func TestHandOverNeedsAMirror(t *testing.T) {
	s := newSmall(t)
	s.mustUp(Selection{Prune: true})
	s.argo()
	err := s.with(func(p *Platform) error {
		p.Driver = mirrorless{p.Driver}
		_, err := p.EnableGitOps(t.Context(), "", time.Minute)
		return err
	})
	if !failure.IsRefused(err) || !strings.Contains(err.Error(), "no registry of their own") || !strings.Contains(err.Error(), "images.registry") {
		t.Errorf("%v", err)
	}
	if g := s.gitOps(); g.Applier != "orrery" {
		t.Errorf("%+v", g)
	}
}

// Nothing is pushed whose pods would find no image, or that has a Secret's value in it.
func TestPushIsRefused(t *testing.T) {
	s := newSmall(t)
	s.mustUp(Selection{Prune: true})
	s.argo()
	enable := func(p *Platform) (Pushed, error) { return p.EnableGitOps(t.Context(), "", time.Minute) }
	s.forget("shop")
	if _, err := s.hand(enable); !failure.IsRefused(err) || !strings.Contains(err.Error(), "component shop: the mirror has no image shop") {
		t.Errorf("%v", err)
	}
	s.mustUp(Selection{}) // which leaves Argo CD, that no catalogue has here
	password := s.secretEntry("shop", "shop-password", "password")
	s.edit("infra/k8s/base/shop/shop.yaml", "hello from", password)
	if _, err := s.hand(enable); err == nil || !strings.Contains(err.Error(), "shop/shop-password") || strings.Contains(err.Error(), password) {
		t.Errorf("%v", err)
	}
	if g := s.gitOps(); g.Applier != "orrery" {
		t.Errorf("it was handed over all the same: %+v", g)
	}
	if len(s.cluster.API.List(appVersion, "Application", gitops.Namespace)) > 0 {
		t.Error("there are Applications")
	}
}

// Of an Argo CD that does not run, status says that what it shows may be old.
func TestGitOpsStatusWithoutArgo(t *testing.T) {
	s := newSmall(t)
	s.mustUp(Selection{Prune: true})
	s.argo()
	if _, err := s.hand(func(p *Platform) (Pushed, error) { return p.EnableGitOps(t.Context(), "", time.Minute) }); err != nil {
		t.Fatal(err)
	}
	s.change("apps/v1", "Deployment", gitops.Namespace, "argocd-repo-server", func(o map[string]any) {
		o["spec"].(map[string]any)["replicas"] = int64(0)
	})
	if g := s.gitOps(); g.Good() || !strings.Contains(g.Problem, "argocd-repo-server is not ready") {
		t.Errorf("%+v", g)
	}
	s.remove("apps/v1", "Deployment", gitops.Namespace, "argocd-controller")
	if g := s.gitOps(); g.Good() || g.Problem == "" {
		t.Errorf("%+v", g)
	}
}
