package kube

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/orrery-dev/orrery/internal/catalog"
)

func TestCheckRules(t *testing.T) {
	for name, test := range map[string]struct {
		spec string
		says []string // nothing: it is good
	}{
		"good":                   {`groups: [{name: a, interval: 30s, rules: [{alert: A, expr: 'up{job="x)"} == 0 # (', for: 1h30m, labels: {severity: none}}, {record: "a:b", expr: vector(1)}, {alert: B, expr: 1}]}]`, nil},
		"empty":                  {`groups: []`, []string{"spec.groups: must be a list"}},
		"no groups":              {`{}`, []string{"spec.groups: must be a list"}},
		"a group that is a text": {`groups: [a]`, []string{"spec.groups[0]: must be a group"}},
		"no name, no rules":      {`groups: [{}]`, []string{"spec.groups[0].name: is missing", "spec.groups[0].rules: must be a list"}},
		"two of a name":          {`groups: [{name: a, rules: [{alert: A, expr: up}]}, {name: a, rules: [{alert: A, expr: up}]}]`, []string{`spec.groups[1].name: "a" is used already`}},
		"interval":               {`groups: [{name: a, interval: soon, rules: [{alert: A, expr: up}]}]`, []string{"spec.groups[0].interval: is soon"}},
		"neither":                {`groups: [{name: a, rules: [{expr: up}]}]`, []string{"spec.groups[0].rules[0]: names neither"}},
		"both":                   {`groups: [{name: a, rules: [{alert: A, record: b, expr: up}]}]`, []string{"names both"}},
		"a rule that is a text":  {`groups: [{name: a, rules: [up]}]`, []string{"spec.groups[0].rules[0]: must be a rule"}},
		"no expression":          {`groups: [{name: a, rules: [{alert: A}]}]`, []string{"rules[0].expr: is missing"}},
		"empty expression":       {`groups: [{name: a, rules: [{alert: A, expr: " "}]}]`, []string{"rules[0].expr: is empty"}},
		"bracket":                {`groups: [{name: a, rules: [{alert: A, expr: up}, {alert: B, expr: "sum(rate(x[5m])"}]}]`, []string{"rules[1].expr: has a '(' that is not closed"}},
		"wrong bracket":          {`groups: [{name: a, rules: [{alert: B, expr: "rate(x[5m))"}]}]`, []string{"has a ')' at byte 9 that closes nothing"}},
		"quote":                  {`groups: [{name: a, rules: [{alert: B, expr: 'up{job="x} == 0'}]}]`, []string{`has a '"' that is not closed`}},
		"for":                    {`groups: [{name: a, rules: [{alert: B, expr: up, for: 5 minutes}]}]`, []string{"rules[0].for: is 5 minutes"}},
		"for of a record":        {`groups: [{name: a, rules: [{record: b, expr: up, for: 5m}]}]`, []string{"rules[0].for: is of alerts"}},
		"record":                 {`groups: [{name: a, rules: [{record: b c, expr: up}]}]`, []string{`rules[0].record: is "b c"`}},
		"label":                  {`groups: [{name: a, rules: [{alert: B, expr: up, labels: {level: 3, "a-b": c}}]}]`, []string{"rules[0].labels.level: is 3; must be a text", `"a-b" is no name`}},
		"labels":                 {`groups: [{name: a, rules: [{alert: B, expr: up, labels: [a]}]}]`, []string{"rules[0].labels: must be names and texts"}},
		"a field of nothing":     {`groups: [{name: a, rules: [{alert: B, expr: up, severity: critical}]}]`, []string{"rules[0].severity: is no field"}},
	} {
		t.Run(name, func(t *testing.T) {
			var spec map[string]any
			if err := yaml.Unmarshal([]byte(test.spec), &spec); err != nil {
				t.Fatal(err)
			}
			o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "spec": spec}}
			errs := checkRules(o)
			var all []string
			for _, err := range errs {
				all = append(all, err.Error())
			}
			text := strings.Join(all, "\n")
			for _, want := range test.says {
				if !strings.Contains(text, want) {
					t.Errorf("says %q, want %q", text, want)
				}
			}
			if len(test.says) == 0 && len(errs) > 0 {
				t.Errorf("a good file is refused: %s", text)
			}
		})
	}
}

// TestBadRuleFile: rendering names file and field.
func TestBadRuleFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("kustomization.yaml", "resources: [rules/nodes.yaml]\n")
	write("rules/nodes.yaml", `apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: {name: nodes}
spec:
  groups:
    - name: nodes
      rules:
        - {alert: A, expr: "up{job=\"a\"} == 0"}
        - {alert: B, expr: "sum(up"}
`)
	c := catalog.Component{Name: "prometheus", Namespace: "observability", Render: catalog.Render{Kustomize: "."}, Dir: dir}
	_, err := Render(RenderInput{Component: c})
	if err == nil || !strings.Contains(err.Error(), "rules/nodes.yaml: spec.groups[0].rules[1].expr: has a '(' that is not closed") {
		t.Errorf("error %v", err)
	}
}

func FuzzCheckRules(f *testing.F) {
	f.Add("groups: [{name: a, rules: [{alert: A, expr: up, for: 1m}]}]")
	f.Add("groups: {a: b}")
	f.Fuzz(func(t *testing.T, text string) {
		var spec any
		if yaml.Unmarshal([]byte(text), &spec) != nil {
			return
		}
		checkRules(&unstructured.Unstructured{Object: map[string]any{"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "spec": spec}})
	})
}
