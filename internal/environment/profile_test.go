package environment

import (
	"slices"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/ui"
)

// From one profile to another only what differs is done, and what leaves is told; an environment
// keeps its profile.
func TestProfile(t *testing.T) {
	s := newSmall(t)
	s.edit("infra/k8s/base/planets/component.yaml", "namespace: shop\n", "namespace: shop\nprofile: full\n")
	all := Selection{Prune: true}
	to := func(name string) { s.request.Profile = name }
	is := func(what, want string) {
		t.Helper()
		if got := changes(s.plan(all)); got != want {
			t.Errorf("%s: to do %q, want %q", what, got, want)
		}
	}
	tell := func() Planned {
		t.Helper()
		s.events = nil
		p := s.open(all)
		defer p.Close()
		planned, err := p.Plan(t.Context(), true)
		if err != nil {
			t.Fatal(err)
		}
		p.TellProfile(planned)
		return planned
	}

	tell()
	if !s.told(ui.TypeNotice, "profile platform leaves out planets: 'orrery deploy --env small NAME' adds one, 'orrery up --env small --profile full' has them all") {
		t.Errorf("what the default leaves out: %s", s.all())
	}
	s.mustUp(all)
	is("up again", "")
	to("full")
	is("a larger one", "deploy/planets")
	if tell(); s.told(ui.TypeNotice, "leaves out") {
		t.Errorf("full leaves something out: %s", s.all())
	}
	s.mustUp(all)
	to("")
	is("without a word about it", "")
	to("platform")
	is("a smaller one", "remove/planets")
	if tell(); !s.told(ui.TypeWarning, "leaving the cluster, because profile platform does not have them: planets") {
		t.Errorf("what leaves is not told: %s", s.all())
	}
	s.mustUp(all)
	if s.cluster.API.Get("example.org/v1", "Planet", "shop", "jupiter") != nil {
		t.Error("its objects are left")
	}
}

// What somebody deployed by name beside the profile stays, with what it needs, and is told.
func TestBesideTheProfile(t *testing.T) {
	s := newSmall(t)
	s.edit("infra/k8s/base/planets/component.yaml", "namespace: shop\n", "namespace: shop\nprofile: full\n")
	all := Selection{Prune: true}
	s.mustUp(all)
	s.mustUp(Selection{Components: []string{"planets"}})
	if p := s.plan(all); !p.UpToDate() || !slices.Equal(p.Beside, []string{"planets"}) {
		t.Errorf("to do %q, beside %v", changes(p), p.Beside)
	}
	s.request.Profile = "core"
	p := s.open(all)
	planned, err := p.Plan(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	if p.TellProfile(planned); !planned.UpToDate() || !s.told(ui.TypeNotice, "beside profile core, deployed by name, and left as they are: planets, shop") {
		t.Errorf("to do %q, %s", changes(planned), s.all())
	}
	if err := p.KeepSkipped(planned.Plan); err != nil { // what up does when there is nothing to do
		t.Fatal(err)
	}
	p.Close()
	s.request.Profile = ""
	e, err := Open(t.Context(), s.request)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if e.Spec.Profile != "core" {
		t.Errorf("the environment forgot its profile: %q", e.Spec.Profile)
	}
}

func TestProfileMistakes(t *testing.T) {
	s := newSmall(t)
	s.request.Profile = "large"
	if _, err := s.request.Spec(); !failure.IsUsage(err) || !strings.Contains(err.Error(), "--profile large: want one of core, platform, full") {
		t.Error(err)
	}
	s.configure("components: [shop]\n")
	s.request.Profile = "core"
	if _, err := s.request.Spec(); !failure.IsUsage(err) || !strings.Contains(err.Error(), "orrery.yaml lists components one by one") {
		t.Error(err)
	}
}

// A component that holds data leaves only when that may be lost.
func TestLeavingWithData(t *testing.T) {
	s := newSmall(t)
	s.edit("infra/k8s/base/planets/component.yaml", "namespace: shop\n", "namespace: shop\nprofile: full\nholds: all moons\n")
	all := Selection{Prune: true}
	s.request.Profile = "full"
	s.mustUp(all)
	refuse := func() error {
		t.Helper()
		p := s.open(all)
		defer p.Close()
		planned, err := p.Plan(t.Context(), true)
		if err != nil {
			t.Fatal(err)
		}
		return p.Refuse(planned.Plan)
	}
	if err := refuse(); err != nil {
		t.Errorf("nothing leaves: %v", err)
	}
	s.request.Profile = "platform"
	if err := refuse(); err == nil || !failure.IsUsage(err) || !strings.Contains(err.Error(), "component planets, and with it all moons") ||
		!strings.Contains(err.Error(), "--delete-data") {
		t.Errorf("it would leave: %v", err)
	}
	s.request.DeleteData = true
	if err := refuse(); err != nil {
		t.Errorf("it may be lost: %v", err)
	}
	s.mustUp(all)
	if s.cluster.API.Get("example.org/v1", "Planet", "shop", "jupiter") != nil {
		t.Error("its objects are left")
	}
}
