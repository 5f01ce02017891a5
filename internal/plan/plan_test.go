package plan

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/profile"
	"github.com/orrery-dev/orrery/internal/spec"

	"github.com/orrery-dev/orrery/internal/golden"
)

func bin(name string, cpu float64, memory int) catalog.Binary {
	return catalog.Binary{Name: name, Module: name, Package: ".", Version: "v1.0.0", CPUSeconds: cpu, MemoryMiB: memory}
}

func image(name string, binaries ...catalog.Binary) catalog.Image {
	return catalog.Image{Name: name, Version: "v1.0.0", Binaries: binaries}
}

// seed is the default topology with the components of the first release.
func seed() Input {
	return Input{
		Spec: spec.Default(), Mirror: true, Nodes: true,
		Distribution: catalog.Distribution{
			Binaries: []catalog.Binary{
				bin("kubernetes", 983, 3400), bin("containerd", 99, 1200), bin("containerd-shim-runc-v2", 30, 800), bin("runc", 25, 600), bin("registry", 139, 1200),
			},
			CNI:     []catalog.Binary{bin("ptp", 8, 400), bin("host-local", 5, 400)},
			Sandbox: image("pause", bin("pause", 1, 200)),
		},
		Bootstrap: []string{"namespaces", "coredns", "local-path"},
		Components: []catalog.Component{
			{Name: "namespaces", Smoke: []string{"namespaces"}},
			{Name: "coredns", Needs: []string{"namespaces"}, Images: []catalog.Image{image("coredns", bin("coredns", 261, 1500))}, Smoke: []string{"dns"}},
			{Name: "local-path", Needs: []string{"namespaces"}, Images: []catalog.Image{image("local-path", bin("local-path-provisioner", 165, 1500), bin("sh", 9, 300))}, Smoke: []string{"storage"}},
			{Name: "nats", Needs: []string{"namespaces", "coredns", "local-path"}, Images: []catalog.Image{image("nats", bin("nats-server", 30, 600)), image("nats-exporter", bin("prometheus-nats-exporter", 28, 600))}, Smoke: []string{"nats"}},
		},
	}
}

func everything(in *Input) {
	in.Cached, in.Pushed, in.Current = map[string]bool{}, map[string]bool{}, map[string]bool{}
	p, err := Up(*in)
	if err != nil {
		panic(err)
	}
	for _, s := range p.Steps {
		switch s.Kind {
		case KindBuild:
			in.Cached[s.Subject] = true
		case KindImage:
			in.Pushed[s.Subject] = true
		case KindDeploy:
			in.Current[s.Subject] = true
		}
	}
}

func TestUpGolden(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Input)
	}{
		{"default", func(*Input) {}},
		{"only-nats", func(in *Input) { // a single server, its builds cached
			none := 0
			in.Spec.Servers, in.Spec.Agents = 1, &none
			in.Components = slices.DeleteFunc(in.Components, func(c catalog.Component) bool { return c.Name != "nats" })
			in.Components[0].Needs = nil
			in.Cached = map[string]bool{"kubernetes": true, "registry": true, "nats-server": true}
			in.SkipVerify = true
		}},
		{"cached", everything}, // after `down`: all built, nothing runs
		{"unchanged", func(in *Input) {
			everything(in)
			in.Phase, in.NodesReady = "running", true
		}},
		{"unchanged-without-cache", func(in *Input) {
			everything(in)
			in.Phase, in.NodesReady, in.Cached, in.SkipVerify = "running", true, nil, true
		}},
		{"key-lost", func(in *Input) { // the mirror has all images, and one is not signed
			everything(in)
			in.Phase, in.NodesReady, in.SkipVerify = "running", true, true
			in.Unsigned = map[string]bool{"coredns": true}
		}},
		{"one-component-changed", func(in *Input) {
			everything(in)
			in.Phase, in.NodesReady = "running", true
			in.Current["coredns"], in.Pushed["coredns"], in.Cached["coredns"] = false, false, false
		}},
		{"image-missing", func(in *Input) { // exporter cannot be had, coredns comes from a registry
			in.Components[3].Images[1] = catalog.Image{Name: "nats-exporter", Version: "v1.0.0", Registry: "docker.io/x/y@sha256:0"}
			in.Components = append(in.Components, catalog.Component{Name: "app", Needs: []string{"nats"}, Smoke: []string{"app"}, Images: []catalog.Image{image("app", bin("app", 10, 100))}})
			in.Pulled = map[string]bool{"coredns": true}
			in.Missing = map[string]Cause{"nats-exporter": {Kind: CauseUnreachable, Root: "image docker.io/x/y not reachable: no route"}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := seed()
			c.change(&in)
			p, err := Up(in)
			if err != nil {
				t.Fatal(err)
			}
			golden.Equal(t, filepath.Join("testdata", c.name+".txt"), p.String()+"\n"+raw(p))
		})
	}
}

// raw lists what String leaves out.
func raw(p Plan) string {
	var b strings.Builder
	for _, s := range p.Steps {
		fmt.Fprintf(&b, "%s kind=%s phase=%s done=%v cpu=%.0f memory=%d needs=%v after=%v", s.ID, s.Kind, s.Phase, s.Done, s.CPUSeconds, s.MemoryMiB, s.Needs, s.After)
		if !s.Skip.IsZero() {
			fmt.Fprintf(&b, " skip=%q", s.Skip)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// Nodes become Ready when the network's agents run: where those are pods, nothing waits for nodes before.
func TestAgentsAsPods(t *testing.T) {
	in := seed()
	in.Components = append(in.Components, catalog.Component{Name: "agents", When: catalog.When{Network: "cilium", Agents: catalog.AgentPods}})
	p, err := Up(in)
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]Step{}
	for _, s := range p.Steps {
		at[s.ID] = s
	}
	if needs := at["nodes"].Needs; !slices.Contains(needs, "deploy/agents") {
		t.Errorf("nodes wait for %q", needs)
	}
	if needs := at["deploy/agents"].Waits(); slices.Contains(needs, "nodes") {
		t.Errorf("agents wait for %q", needs)
	}
}

func TestUpIsPure(t *testing.T) {
	in := seed()
	first, err := Up(in)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		again, err := Up(in)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(first, again); d != "" {
			t.Fatalf("the same input gave another plan:\n%s", d)
		}
	}
	if d := cmp.Diff(seed(), in); d != "" {
		t.Errorf("Up changed its input:\n%s", d)
	}
}

// Running with everything current: nothing to do but verify, and nothing at all without.
func TestUpPending(t *testing.T) {
	in := seed()
	everything(&in)
	in.Phase, in.NodesReady, in.SkipVerify = "running", true, true
	p, err := Up(in)
	if err != nil {
		t.Fatal(err)
	}
	if n := p.Pending(); n != 0 {
		t.Errorf("%d steps to do, want 0:\n%s", n, p)
	}
	for _, phase := range []string{"", "absent", "partial", "stopped"} {
		in.Phase = phase
		p, err := Up(in)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"prepare", "cluster", "nodes", "deploy/nats", "image/nats"} {
			if s, ok := p.Step(id); !ok || s.Done {
				t.Errorf("phase %q: %s is done; a cluster that does not run holds nothing", phase, id)
			}
		}
	}
}

func TestUpErrors(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Input)
		want   string
	}{
		{"cycle", func(in *Input) { in.Components[0].Needs = []string{"nats"} }, "plan: cycle: deploy/namespaces → deploy/nats → deploy/namespaces"},
		{"missing need", func(in *Input) { in.Components[3].Needs = []string{"postgres"} }, "plan: component nats needs postgres, which was not selected"},
		{"component twice", func(in *Input) { in.Components = append(in.Components, in.Components[3]) }, "plan: step deploy/nats stands twice"},
		{"two binaries of one name", func(in *Input) {
			in.Components[3].Images = append(in.Components[3].Images, image("other", bin("runc", 1, 1)))
		}, "plan: two different declarations of build/runc; give one of them another name"},
		{"a component called cluster", func(in *Input) {
			in.Components = append(in.Components, catalog.Component{Name: "cluster", Smoke: []string{"x"}})
		}, "plan: step verify/cluster stands twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := seed()
			c.change(&in)
			if _, err := Up(in); err == nil || err.Error() != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// What runs is not skipped because its image could not be had again.
func TestMissingImageOfWhatRuns(t *testing.T) {
	in := seed()
	everything(&in)
	in.Phase, in.NodesReady = "running", true
	in.Missing = map[string]Cause{"nats": {Kind: CauseUnreachable, Root: "gone"}}
	delete(in.Pushed, "nats")
	p, err := Up(in)
	if err != nil {
		t.Fatal(err)
	}
	if skipped := p.Skipped(); len(skipped) > 0 {
		t.Errorf("skipped: %v", skipped)
	}
	in.Current["nats"] = false
	if p, err = Up(in); err != nil {
		t.Fatal(err)
	}
	if skipped := p.Skipped(); skipped["nats"].Root != "gone" || len(skipped) != 1 {
		t.Errorf("skipped: %v", skipped)
	}
	for _, s := range p.Steps {
		if !s.Done && s.Skip.IsZero() && s.Kind != KindVerify {
			t.Errorf("left to do: %s", s.ID)
		}
	}
}

// What waits for kinds is applied again beside what is deployed, which may bring them: not
// beside what is skipped, or a second up would always find something to do.
func TestDeferred(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Input)
		want   string // pending steps
	}{
		{"nothing else to do", func(*Input) {}, ""},
		{"another is deployed", func(in *Input) { in.Current["nats"] = false }, "deploy/coredns deploy/nats"},
		{"another is skipped", func(in *Input) {
			in.Current["nats"], in.Missing = false, map[string]Cause{"nats-exporter": {Kind: CauseUnreachable, Root: "gone"}}
			delete(in.Pushed, "nats-exporter")
		}, ""},
		{"what it needs cannot be had any more", func(in *Input) {
			in.Current["nats"], in.Missing = false, map[string]Cause{"coredns": {Kind: CauseUnreachable, Root: "gone"}}
			delete(in.Pushed, "coredns")
		}, "deploy/nats"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := seed()
			everything(&in)
			in.Phase, in.NodesReady, in.SkipVerify = "running", true, true
			in.Deferred = map[string]bool{"coredns": true}
			c.change(&in)
			p, err := Up(in)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range p.Changes() {
				got = append(got, s.ID)
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("%q is left to do, want %q", s, c.want)
			}
		})
	}
}

// An image that the mirror lost is pushed again while all that needs it runs, and what it takes
// is built if it is not cached; nothing else is.
func TestLostImage(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Input)
		want   string // pending steps
	}{
		{"cached", func(in *Input) { in.Pushed["nats"] = false }, "image/nats"},
		{"of the nodes themselves", func(in *Input) { in.Pushed["pause"] = false }, "image/pause"},
		{"without a cache", func(in *Input) { in.Pushed["local-path"], in.Cached = false, nil }, "build/local-path-provisioner build/sh image/local-path"},
		{"the mirror has all, without a cache", func(in *Input) { in.Cached = nil }, ""},
		{"nobody knows its digest", func(in *Input) { delete(in.Pushed, "nats") }, ""},
		{"it cannot be had", func(in *Input) {
			in.Pushed["nats"], in.Missing = false, map[string]Cause{"nats": {Kind: CauseUnreachable, Root: "gone"}}
		}, ""},
		{"of what is skipped", func(in *Input) { // for another image, and it does not run
			in.Pushed["nats"], in.Current["nats"] = false, false
			in.Pushed["nats-exporter"], in.Missing = false, map[string]Cause{"nats-exporter": {Kind: CauseUnreachable, Root: "gone"}}
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := seed()
			everything(&in)
			in.Phase, in.NodesReady, in.SkipVerify = "running", true, true
			c.change(&in)
			p, err := Up(in)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range p.Changes() {
				got = append(got, s.ID)
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("to do: %q, want %q", got, c.want)
			}
		})
	}
}

// A cluster without components runs the pods of others, and none without a sandbox.
func TestSandboxWithoutComponents(t *testing.T) {
	for name, c := range map[string]struct {
		phase string
		there bool
		want  bool
	}{
		"to be made":                  {"absent", false, true},
		"stopped":                     {"stopped", false, true},
		"running":                     {"running", true, false},
		"running, the mirror lost it": {"running", false, true},
	} {
		in := seed()
		in.Components, in.Phase, in.NodesReady = nil, c.phase, c.phase == "running"
		if c.phase == "running" {
			in.Pushed = map[string]bool{"pause": c.there}
		}
		p, err := Up(in)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"image/pause", "build/pause"} {
			if s, ok := p.Step(id); !ok || s.Pending() != c.want {
				t.Errorf("%s: %+v; pending is to be %v", name, s, c.want)
			}
		}
	}
}

// One image or binary that several components use is one step.
func TestSharedImage(t *testing.T) {
	in := seed()
	in.Components[0].Images = in.Components[3].Images
	p, err := Up(in)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Validate(); err != nil {
		t.Error(err)
	}
}

func TestValidate(t *testing.T) {
	p := Plan{Steps: []Step{{ID: "a", Needs: []string{"b"}}, {ID: "b", After: []string{"gone"}}, {ID: "b"}}}
	want := "plan: step b stands at 1 and at 2\n" +
		"plan: step a waits for b, which stands behind it\n" +
		"plan: step b waits for gone, which is not in the plan"
	if err := p.Validate(); err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// What leaves the catalogue, or the list of components, leaves the cluster.
func TestUpRemovesWhatIsNotSelected(t *testing.T) {
	in := seed()
	p, err := Up(in)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := p.Step("remove/metrics-server"); ok {
		t.Error("removes a component that is not installed")
	}
	in.Installed = []string{"metrics-server", "nats"}
	if p, err = Up(in); err != nil {
		t.Fatal(err)
	}
	if s, ok := p.Step("remove/metrics-server"); !ok || s.Kind != KindRemove || s.Done {
		t.Errorf("remove/metrics-server: %+v %v", s, ok)
	}
	if _, ok := p.Step("remove/nats"); ok {
		t.Error("removes a component that is wanted")
	}
}

// Somebody else's cluster has a registry of the person's: nothing is built or pushed, and what
// needs an image that is not there is left out.
func TestUpOnSomebodyElsesCluster(t *testing.T) {
	in := seed()
	in.Mirror, in.Nodes, in.Distribution = false, false, catalog.Distribution{}
	in.Missing = map[string]Cause{"nats": {Kind: CauseUnreachable, Image: "nats", Root: "not there; 'orrery images push nats'"}}
	p, err := Up(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range p.Steps {
		if s.Kind == KindBuild || s.Kind == KindPrepare || s.Kind == KindImage && s.Pending() {
			t.Errorf("the plan has %s", s.ID)
		}
	}
	if s, ok := p.Step("cluster"); !ok || s.Title != "The cluster answers" || !s.Pending() {
		t.Errorf("cluster: %+v", s)
	}
	if cause := p.Skipped()["nats"]; cause.Image != "nats" || !strings.Contains(cause.Root, "orrery images push") {
		t.Errorf("skipped: %v", p.Skipped())
	}
}

// Programs of one module wait for the one that is needed first, or else the largest; what is built
// already is not waited for, nor built for the others.
func TestProgramsOfAModule(t *testing.T) {
	of := func(dir string, b catalog.Binary) catalog.Binary {
		b.Dir = dir
		return b
	}
	in := seed()
	in.Components[0].Profile = profile.Core
	in.Distribution.Binaries = append(in.Distribution.Binaries, of("/cilium", bin("operator", 40, 100)), of("/cilium", bin("agent", 700, 100)), of("/apps", bin("clang", 1, 100)))
	in.Components[3].Images = append(in.Components[3].Images, image("shop", of("/apps", bin("shop", 30, 100))))
	check := func(want map[string]string) {
		t.Helper()
		p, err := Up(in)
		if err != nil {
			t.Fatal(err)
		}
		for id, after := range want {
			if s, _ := p.Step(id); strings.Join(s.After, " ") != after {
				t.Errorf("%s waits for %v, want %q", id, s.After, after)
			}
		}
	}
	check(map[string]string{"build/operator": "build/agent", "build/agent": "", "build/shop": "build/clang", "build/clang": "", "build/runc": ""})
	in.Cached = map[string]bool{"agent": true}
	check(map[string]string{"build/operator": "", "build/agent": ""})
}

// A step belongs to the first milestone that waits for it, be it for something else.
func TestStages(t *testing.T) {
	in := seed()
	for i := range in.Components {
		in.Components[i].Profile = profile.Core
	}
	nats := in.Components[3].Images[0]
	in.Components = append(in.Components,
		catalog.Component{Name: "shop", Needs: []string{"nats"}, Images: []catalog.Image{image("shop", bin("shop", 10, 100)), nats}, Smoke: []string{"shop"}},
		catalog.Component{Name: "vault", Images: []catalog.Image{image("vault", bin("vault", 10, 100))}, Profile: profile.Full, Smoke: []string{"vault"}})
	in.Installed = []string{"gone"}
	p, err := Up(in)
	if err != nil {
		t.Fatal(err)
	}
	var names, titles []string
	for _, m := range p.Milestones {
		names, titles = append(names, m.Name), append(titles, m.Title)
		for _, id := range m.Needs {
			if _, ok := p.Step(id); !ok {
				t.Errorf("milestone %s waits for %s, which is not in the plan", m.Name, id)
			}
		}
	}
	if want := "nodes core platform full"; strings.Join(names, " ") != want {
		t.Errorf("milestones %v, want %s", names, want)
	}
	if want := "nodes Ready; coredns, local-path, namespaces, nats verified; shop verified; everything verified"; strings.Join(titles, "; ") != want {
		t.Errorf("titles %v, want %s", titles, want)
	}
	for id, want := range map[string]int{
		"build/runc": 0, "prepare": 0, "nodes": 0, "image/pause": 1, "build/nats-server": 1, "verify/nats": 1, "verify/cluster": 1,
		"build/shop": 2, "verify/shop": 2, "build/vault": 3, "remove/gone": 4,
	} {
		if s, _ := p.Step(id); s.Stage != want {
			t.Errorf("%s is of stage %d, want %d", id, s.Stage, want)
		}
	}
	in.SkipVerify = true
	if p, err = Up(in); err != nil || p.Milestones[2].Title != "shop deployed" {
		t.Errorf("%v, %v", p.Milestones, err)
	}
}
