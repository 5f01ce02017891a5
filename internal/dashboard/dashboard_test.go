package dashboard

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/profile"
)

var update = flag.Bool("update", false, "write Grafana's JSON and the kustomizations beside the dashboards")

const root = "../.."

// TestCommitted holds what Grafana is given to the descriptions, file by file.
func TestCommitted(t *testing.T) {
	all, err := LoadAll(root)
	if err != nil {
		t.Fatal(err)
	}
	folders := map[string][]Dashboard{}
	want := map[string][]byte{}
	for _, d := range all {
		dir := filepath.Dir(d.File)
		folders[dir] = append(folders[dir], d)
		if want[strings.TrimSuffix(d.File, ".yaml")+".json"], err = d.Grafana(); err != nil {
			t.Fatal(err)
		}
	}
	for dir, of := range folders {
		slices.SortFunc(of, func(a, b Dashboard) int { return strings.Compare(a.Name, b.Name) })
		want[filepath.Join(dir, "kustomization.yaml")] = ConfigMaps(of[0].Component, of)
	}
	for file, data := range want {
		if *update {
			if err := os.WriteFile(file, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if have, err := os.ReadFile(file); err != nil || !bytes.Equal(have, data) {
			t.Errorf("%s is not what its description gives (%v); run: go test ./internal/dashboard -update", file, err)
		}
	}
	for dir := range folders {
		found, _ := filepath.Glob(filepath.Join(dir, "*.json"))
		for _, f := range found {
			if want[f] == nil {
				t.Errorf("%s belongs to no description: remove it", f)
			}
		}
	}
}

// TestMounted: the component dashboards deploys what every component has, waits for those
// components, and Grafana mounts it.
func TestMounted(t *testing.T) {
	read := func(file string) string {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(root, catalog.BaseDir, file))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	kustomization, deployment := read("dashboards/kustomization.yaml"), ""
	if _, err := os.Stat(filepath.Join(root, catalog.BaseDir, "grafana")); err == nil {
		deployment = read("grafana/deployment.yaml")
	}
	cat, err := catalog.Load(root)
	if err != nil {
		t.Fatal(err)
	}
	all, err := LoadAll(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		if !profile.Has(cat.Components["dashboards"].Profile, cat.Components[d.Component].Profile) {
			continue // of a larger profile, for which these must not wait: the console shows it
		}
		if !strings.Contains(kustomization, "../"+d.Component+"/dashboards\n") {
			t.Errorf("dashboards/kustomization.yaml: resources: add ../%s/dashboards", d.Component)
		}
		if !slices.Contains(cat.Components["dashboards"].Needs, d.Component) {
			t.Errorf("dashboards/component.yaml: needs: add %s", d.Component)
		}
		if deployment != "" && !strings.Contains(deployment, "name: dashboards-"+d.Component+",") {
			t.Errorf("grafana/deployment.yaml: volume dashboards: add {name: dashboards-%s, optional: true}", d.Component)
		}
	}
}

const example = `apiVersion: orrery.dev/v1alpha1
kind: Dashboard
name: example
title: Example
description: What it shows
range: 15m
variables:
  - {name: namespace, title: Namespace, label: namespace, match: kube_pod_info}
  - {name: text, title: Text, text: true}
rows:
  - title: First
    panels:
      - title: Requests
        kind: timeseries
        unit: 1/s
        queries:
          - {expr: 'sum by (job) (rate(x{namespace=~"$namespace"}[$__rate_interval]))', legend: "{{job}} of {{ pod }}", exemplars: true}
        thresholds: [{from: 1, state: warning}, {from: 2, state: critical}]
      - title: Down
        kind: stat
        emptyWhenHealthy: true
        empty: nothing is down
        values: {"0": down}
        queries: [{expr: up == 0}]
      - title: Pods
        kind: table
        labels: [namespace, pod]
        queries:
          - {expr: a, legend: CPU, unit: cores}
          - {expr: b, legend: Memory, unit: bytes}
      - title: Lines
        kind: logs
        queries: [{expr: '{namespace=~"$namespace"} |= "$text"'}]
      - title: Traces
        kind: trace
        queries: [{expr: "{}"}]
`

func TestParse(t *testing.T) {
	d, err := Parse([]byte(example), "example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if d.Span() != 15*time.Minute || len(d.Queries()) != 6 {
		t.Errorf("%+v", d)
	}
	uses := d.Queries()
	if got, want := uses[0].Expr, `sum by (job) (rate(x{namespace=~".*"}[120s]))`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if uses[4].Source != Loki || uses[4].Expr != `{namespace=~".*"} |= ""` || uses[5].Source != Tempo {
		t.Errorf("%+v", uses[4:])
	}
	chosen := Selection{"namespace": "kube-system", "text": `a"b\`}
	if got, want := d.Expand(uses[4].Query.Expr, chosen, time.Hour, time.Minute), `{namespace=~"kube-system"} |= "a\"b\\"`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := d.Expand(`x{n=~"$namespace"}`, Selection{"namespace": `a.b"} or up{x="`}, time.Hour, time.Minute); got != `x{n=~"a\\.b\"\\} or up\\{x=\""}` {
		t.Errorf("a value gets out of its quotes: %s", got)
	}
	if got := Name("{{job}} of {{ pod }}", func(l string) string { return "<" + l + ">" }); got != "<job> of <pod>" {
		t.Error(got)
	}
	p := d.Rows[0].Panels[0]
	for v, want := range map[float64]State{0: Neutral, 1: Warning, 1.9: Warning, 2: Critical} {
		if p.Judge(v) != want {
			t.Errorf("%g is %s", v, p.Judge(v))
		}
	}
}

// Every mistake is refused with file, line and field.
func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ old, new, says string }{
		{"title: Example", "titl: Example", `example.yaml:4: titl: unknown field, did you mean "title"?`},
		{"title: Example", "title: ''", "example.yaml:4: title: is missing"},
		{"name: example", "name: other", `example.yaml:3: name: is "other"; must be the file's ("example")`},
		{"kind: Dashboard", "kind: Board", `kind: is "Board"`},
		{"v1alpha1", "v2", "apiVersion: is"},
		{"range: 15m", "range: 15", "range: is a number (15); must be text"},
		{"range: 15m", "range: soon", `example.yaml:6: range: is "soon"; must be a duration`},
		{"kind: timeseries", "kind: pie", `example.yaml:14: rows[0].panels[0].kind: is "pie"; must be one of timeseries, stat`},
		{"unit: 1/s", "unit: furlongs", `rows[0].panels[0].unit: is "furlongs"`},
		{"[$__rate_interval]", "[$interval]", "rows[0].panels[0].queries[0].expr: $interval is no variable of this dashboard; there are __range, __rate_interval, namespace, text"},
		{`rate(x{`, `rate(x{{`, `queries[0].expr: `},
		{`"$text"'`, `"$text'`, "a quote (\") is not closed"},
		{"{from: 2,", "{from: 1,", "thresholds[1].from: is 1; must rise"},
		{"state: critical", "state: bad", `thresholds[1].state: is "bad"`},
		{"labels: [namespace, pod]", "labels: []", "panels[2].labels: is empty"},
		{"legend: CPU, ", "", "queries[0].legend: is missing; it is the title of the column"},
		{"emptyWhenHealthy: true", "emptyWhenHealthy: false", "empty: needs emptyWhenHealthy"},
		{"title: Down", "title: Requests", "is another panel's"},
		{"text: true}", "text: true, label: x}", "exactly one of label and text"},
		{"{name: text", "{name: namespace", `variables[1].name: is "namespace"; must be small letters and digits, once`},
		{"queries: [{expr: up == 0}]", "queries: []", "panels[1].queries: is empty"},
		{"kind: trace", "kind: trace\n        stack: true", "stack: is for timeseries only"},
		{"{{ pod }}", "{{ pod", "legend: is"},
		{"exemplars: true", "exemplars: yes please", "exemplars: is text"},
		{"rows:\n", "rows:\n  - title: Empty\n    panels: []\n", "rows[0].panels: is empty"},
	} {
		t.Run(c.says, func(t *testing.T) {
			data := strings.Replace(example, c.old, c.new, 1)
			if data == example {
				t.Fatalf("%q is not in the example", c.old)
			}
			if _, err := Parse([]byte(data), "example.yaml"); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
		})
	}
}

func TestLoadAll(t *testing.T) {
	dir := t.TempDir()
	write := func(component, name, data string) {
		file := filepath.Join(dir, "infra/k8s/base", component, "dashboards", name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("a", "kustomization.yaml", "not a dashboard")
	write("a", "example.yaml", example)
	write("b", "second.yaml", strings.Replace(example, "name: example\n", "name: second\norder: 1\n", 1))
	all, err := LoadAll(dir)
	if err != nil || len(all) != 2 || all[0].Name != "second" || all[1].Component != "a" {
		t.Fatalf("%v, %v", all, err)
	}
	write("c", "example.yaml", example)
	write("c", "bad.yaml", "kind: 1")
	_, err = LoadAll(dir)
	for _, says := range []string{"infra/k8s/base/c/dashboards/bad.yaml:1: kind:", "example is the name of infra/k8s/base/a/dashboards/example.yaml too"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}

func TestGrafana(t *testing.T) {
	d, err := Parse([]byte(example), "example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d.Component = "test"
	data, err := d.Grafana()
	if err != nil {
		t.Fatal(err)
	}
	again, _ := d.Grafana()
	if !bytes.Equal(data, again) {
		t.Error("two runs differ")
	}
	var g struct {
		UID    string
		Panels []struct {
			ID      int
			Type    string
			GridPos struct{ X, Y, W, H int }
			Targets []map[string]any
		}
		Templating struct{ List []map[string]any }
	}
	if err := json.Unmarshal(data, &g); err != nil {
		t.Fatal(err)
	}
	var types []string
	taken := map[[2]int]int{}
	for _, p := range g.Panels {
		types = append(types, p.Type)
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != 0 || x >= 24 {
					t.Fatalf("panels %d and %d overlap at %d,%d", other, p.ID, x, y)
				}
				taken[[2]int{x, y}] = p.ID
			}
		}
	}
	if want := "[row timeseries stat table logs table]"; fmt.Sprint(types) != want {
		t.Errorf("%v, want %s", types, want)
	}
	if g.UID != "orrery-example" || len(g.Templating.List) != 2 || g.Panels[1].Targets[0]["exemplar"] != true {
		t.Errorf("%+v", g)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	files, _ := filepath.Glob(filepath.Join(root, "infra/k8s/base/*/dashboards/*.yaml"))
	for _, file := range files {
		if data, err := os.ReadFile(file); err == nil {
			f.Add(data)
		}
	}
	f.Add([]byte("rows: [{panels: [{queries: [{expr: \"$\"}]}]}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Parse(data, "example.yaml")
		if err != nil {
			return
		}
		if _, err := d.Grafana(); err != nil {
			t.Errorf("accepted, but: %v", err)
		}
		for _, u := range d.Queries() {
			if u.Source == "" {
				t.Errorf("%s has no source", u.Where())
			}
		}
	})
}
