package environment

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/supply"
)

// What is asked for and cannot be is a mistake of the caller's that names what would be right.
func TestRequestMistakes(t *testing.T) {
	s := newSmall(t)
	for part, r := range map[string]Request{
		"read the environment file":          {File: "nowhere.yaml"},
		`got "A B"`:                          {File: s.file, Name: "A B"},
		"--profile huge: want one of core, ": {File: s.file, Profile: "huge"},
	} {
		if _, err := r.Spec(); !failure.IsUsage(err) || !strings.Contains(err.Error(), part) {
			t.Errorf("%v, want %q", err, part)
		}
	}
	if _, err := (Request{Name: "A B"}).Absent(); !failure.IsUsage(err) {
		t.Errorf("%v", err)
	}
	s.configure("components: [shop]\n")
	if _, err := (Request{File: s.file, Profile: "core"}).Spec(); !failure.IsUsage(err) || !strings.Contains(err.Error(), "lists components one by one") {
		t.Errorf("%v", err)
	}
	if e, err := (Request{File: s.file, Name: "other", Registry: "registry.example.org/acme"}).Spec(); err != nil || e.Name != "other" ||
		e.Images.Registry != "registry.example.org/acme" {
		t.Errorf("%+v, %v", e, err)
	}
}

// Without --file it is the orrery.yaml of the working folder, then that beside the catalogue, then
// the default.
func TestEnvironmentFile(t *testing.T) {
	s := newSmall(t)
	r := Request{Catalog: s.platform.Root}
	named := func() string {
		t.Helper()
		e, err := r.Spec()
		if err != nil {
			t.Fatal(err)
		}
		return e.Name
	}
	if got := named(); got != "small" { // orrery.yaml of newSmall
		t.Errorf("here: %q", got)
	}
	text, err := os.ReadFile(s.file)
	if err != nil {
		t.Fatal(err)
	}
	s.write("orrery.yaml", strings.Replace(string(text), "name: small", "name: beside", 1))
	if err := os.Remove(s.file); err != nil {
		t.Fatal(err)
	}
	if got := named(); got != "beside" {
		t.Errorf("beside the catalogue: %q", got)
	}
	if err := os.Remove(filepath.Join(s.platform.Root, "orrery.yaml")); err != nil {
		t.Fatal(err)
	}
	if got := named(); got != spec.DefaultName {
		t.Errorf("nowhere: %q", got)
	}
}

// What is there is told from what is not, and who asks for what is not learns how to have it.
func TestEnvironmentsThatAre(t *testing.T) {
	s := newSmall(t)
	if absent, err := s.request.Absent(); err != nil || !absent {
		t.Errorf("%t, %v", absent, err)
	}
	if names, err := s.request.Names(); err != nil || len(names) > 0 {
		t.Errorf("%v, %v", names, err)
	}
	if _, err := Existing(s.request); err == nil || !strings.Contains(err.Error(), "make it with 'orrery up --env small'") {
		t.Errorf("%v", err)
	}
	s.mustUp(Selection{})
	if absent, err := s.request.Absent(); err != nil || absent {
		t.Errorf("%t, %v", absent, err)
	}
	for _, folder := range []string{".hidden", "other"} {
		if err := os.MkdirAll(filepath.Join(s.request.StateRoot, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if names, err := s.request.Names(); err != nil || !slices.Equal(names, []string{"other", "small"}) {
		t.Errorf("%v, %v", names, err)
	}
	p := s.open(Selection{})
	defer p.Close()
	if names := p.NodeNames(); !slices.Equal(names, []string{"server1", "agent1"}) {
		t.Errorf("%v", names)
	}
	if err := p.KnownNode("agent1"); err != nil {
		t.Error(err)
	}
	if err := p.KnownNode("agent2"); !failure.IsUsage(err) || !strings.Contains(err.Error(), "[server1 agent1]") {
		t.Errorf("%v", err)
	}
	if names := p.CheckNames(); !slices.Equal(names, []string{"cluster", "namespaces", "planets", "shop"}) {
		t.Errorf("%v", names)
	}
}

// A verb that only looks makes nothing, whoever asks it to.
func TestLookingMakesNothing(t *testing.T) {
	s := newSmall(t)
	s.mustUp(Selection{})
	looking := s.request
	looking.Verb = ""
	e, err := Existing(looking)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.MergeKubeconfig(t.Context(), filepath.Join(t.TempDir(), "config"), 0); err == nil || !strings.Contains(err.Error(), "changes nothing") {
		t.Errorf("%v", err)
	}
	if err := e.DiscardUnmade(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(e.StateDir); err != nil {
		t.Errorf("the state folder is gone: %v", err)
	}
}

// A state that cannot be read stops every verb but those that must work: they say what is the
// matter, and remove all the same.
func TestDamagedState(t *testing.T) {
	s := newSmall(t)
	s.mustUp(Selection{})
	state := filepath.Join(s.request.StateRoot, "small", "environment.json")
	if err := os.WriteFile(state, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	down := s.request
	down.Verb = VerbDown
	for name, open := range map[string]func() (*Environment, error){
		"up": func() (*Environment, error) { return Open(t.Context(), s.request) }, "status": func() (*Environment, error) { return Existing(down) },
	} {
		if _, err := open(); err == nil || !strings.Contains(err.Error(), "environment.json") {
			t.Errorf("%s: %v", name, err)
		}
	}
	salvaged := func(driver string) {
		t.Helper()
		e, err := Salvage(down)
		if err != nil || e.Damage == nil || e.Exists || e.Spec.Driver != driver {
			t.Fatalf("%+v, %v", e, err)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
	salvaged("fake") // as orrery.yaml says
	// Whose record is there made it, and removes it.
	if err := os.WriteFile(filepath.Join(filepath.Dir(state), "recorded.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	salvaged("recorded")
}

// Who may change an environment hangs on the driver that made it, and not on the default one.
func TestWhoMayChangeHangsOnTheDriver(t *testing.T) {
	s := newSmall(t)
	s.mustUp(Selection{})
	dir := filepath.Join(s.request.StateRoot, "small")
	if got := keptDriver(dir, "x"); got != "fake" {
		t.Errorf("it was made with fake, and would be changed with %s", got)
	}
	if got := keptDriver(dir+"-none", "x"); got != "x" {
		t.Errorf("of what is not there the driver is %s", got)
	}
}

// Outside of a repository the catalogue is that which the environment was made from.
func TestCatalogueOfTheEnvironment(t *testing.T) {
	s := newSmall(t)
	from := s.request
	s.request.Catalog, s.request.Bundle = "", supply.InBundle(s.request.CacheDir, s.digest)
	s.mustUp(Selection{Prune: true})
	away := from
	away.Catalog = ""
	if at := away.Location(); at.Bundle() != s.digest {
		t.Errorf("of bundle %q", at.Bundle())
	}
	if p, err := away.Supply(); err != nil || p.Builds() || p.Locked == nil {
		t.Errorf("it builds, or knows no lock: %v", err)
	}
	if at := from.Location(); at.Bundle() != "" {
		t.Errorf("the catalogue that was named is passed over for bundle %q", at.Bundle())
	}
	// Who writes the lock anew needs none that can be read.
	s.write("orrery.lock", "{")
	if _, err := from.Supply(); err == nil || !strings.Contains(err.Error(), "orrery.lock") {
		t.Errorf("%v", err)
	}
	if p, err := from.Unlocked(); err != nil || p.Locked != nil {
		t.Errorf("%v", err)
	}
	nowhere := Request{StateRoot: t.TempDir(), CacheDir: t.TempDir()}
	for name, open := range map[string]func() error{
		"Supply": func() error { _, err := nowhere.Supply(); return err }, "Unlocked": func() error { _, err := nowhere.Unlocked(); return err },
	} {
		if err := open(); err == nil || !strings.Contains(err.Error(), "--catalog DIR") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Bundles are kept while it cannot be told who needs them.
func TestBundlesOfDamagedStates(t *testing.T) {
	s := newSmall(t)
	s.mustUp(Selection{})
	if err := os.WriteFile(filepath.Join(s.request.StateRoot, "small", "environment.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.request.BundlesUsed(); err == nil || !strings.Contains(err.Error(), "bundles are kept") {
		t.Errorf("%v", err)
	}
}

// What an environment cannot take in place is refused field by field.
func TestUnchangeable(t *testing.T) {
	have := spec.Named("small")
	have.Network.Plugin = spec.PluginPTP
	if err := changeable(have, have); err != nil {
		t.Error(err)
	}
	agents := have.AgentCount() + 1
	for field, change := range map[string]func(*spec.Environment){
		"driver":     func(e *spec.Environment) { e.Driver = "k3d" },
		"k3d":        func(e *spec.Environment) { e.K3d = &spec.K3d{Image: "other"} },
		"servers":    func(e *spec.Environment) { e.Servers += 2 },
		"agents":     func(e *spec.Environment) { e.Agents = &agents },
		"zones":      func(e *spec.Environment) { e.Zones = append(slices.Clone(e.Zones), "zone-x") },
		"network":    func(e *spec.Environment) { e.Network.Plugin = spec.PluginRoutes },
		"durability": func(e *spec.Environment) { e.Durability = "other" },
	} {
		want := have
		change(&want)
		if err := changeable(have, want); err == nil || !strings.HasPrefix(err.Error(), field+" of environment \"small\" cannot change from ") || strings.Count(err.Error(), "cannot change") != 1 {
			t.Errorf("%s: %v", field, err)
		}
	}
	have.Driver, have.Existing = spec.DriverExisting, &spec.Existing{Kubeconfig: "/a", Context: "x"}
	want := have
	want.Existing = &spec.Existing{Kubeconfig: "/a", Context: "y"}
	if err := changeable(have, want); err == nil || !strings.Contains(err.Error(), "y of /a") {
		t.Errorf("%v", err)
	}
}
