package kube

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/mirror"

	"github.com/orrery-dev/orrery/internal/golden"
)

var testFacts = Facts{
	Environment: "test", ClusterDomain: "cluster.local", ClusterDNS: "10.96.0.10", PodCIDR: "10.244.0.0/16",
	ServiceCIDR: "10.96.0.0/16", Durability: "full", Servers: 3, Nodes: 5, Zones: 3,
}

func input(t testing.TB, component string) RenderInput {
	t.Helper()
	root, err := filepath.Abs("testdata/render")
	if err != nil {
		t.Fatal(err)
	}
	in := RenderInput{
		Component: catalog.Component{Name: component, Namespace: "space", Dir: filepath.Join(root, "base", component)},
		Overlay:   catalog.Overlay{Name: "local", Dir: filepath.Join(root, "overlays", "local")},
		Facts:     testFacts,
	}
	in.Component.Images = []catalog.Image{{Name: "tools/server", Version: "v2"}, {Name: "helper", Version: "v1"}}
	switch component {
	case "plain":
		in.Component.Render.Kustomize = "k"
	case "layered":
		in.Component.Render.Kustomize = "."
	default:
		in.Component.Render.Chart = "chart"
	}
	return in
}

func TestRender(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("ab", 32)
	built := map[string]string{
		"tools/server": mirror.Host + "/tools/server:v2" + digest, "helper": mirror.Host + "/helper:v1" + digest, "other": "not ours",
	}
	for _, tt := range []struct {
		name, component string
		change          func(*RenderInput)
	}{
		{"plain", "plain", func(*RenderInput) {}},
		{"plain-built", "plain", func(in *RenderInput) { in.Images = built }},
		{"layered", "layered", func(*RenderInput) {}},
		{"layered-base", "layered", func(in *RenderInput) { in.Overlay = catalog.Overlay{} }},
		{"charted", "charted", func(*RenderInput) {}},
		{"charted-fast", "charted", func(in *RenderInput) { in.Facts.Durability, in.Facts.Nodes, in.Images = "fast", 1, built }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := input(t, tt.component)
			tt.change(&in)
			objs, err := Render(in)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Manifest(objs)
			if err != nil {
				t.Fatal(err)
			}
			golden.Equal(t, filepath.Join("testdata", "render", tt.name+".golden.yaml"), string(got))
			again, err := Render(in)
			if err != nil {
				t.Fatal(err)
			}
			slices.Reverse(again)
			if Hash(again) != Hash(objs) {
				t.Error("two renders of the same input have different hashes")
			}
			read, err := parse(got)
			if err != nil || Hash(read) != Hash(objs) {
				t.Errorf("the manifest reads back as something else (%v)", err)
			}
		})
	}
}

var moduleCharts = map[string]catalog.ModuleChart{"plain": {Module: "//m", Folder: "example.com/m/chart"}}

// What an overlay adds comes beside the component's own, with its values and under its rules.
func TestModuleChart(t *testing.T) {
	in := input(t, "plain")
	own, err := Render(in)
	if err != nil {
		t.Fatal(err)
	}
	in.Overlay = catalog.Overlay{Name: "prod", Dir: t.TempDir(), Charts: moduleCharts}
	if err := os.MkdirAll(filepath.Join(in.Overlay.Dir, "plain"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(in.Overlay.Dir, "plain", "values.yaml"), []byte("pods: ${podCIDR}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	in.Chart = map[string][]byte{
		"Chart.yaml": []byte("apiVersion: v2\nname: added\nversion: 1.0.0\n"), "values.yaml": []byte("pods: none\nimage: x@sha256:" + strings.Repeat("ab", 32)),
		"templates/a.yaml": []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: added}\ndata: {pods: '{{ .Values.pods }}'}\n---\n" +
			"apiVersion: v1\nkind: Pod\nmetadata: {name: added}\nspec: {containers: [{name: a, image: '{{ .Values.image }}'}]}\n"),
	}
	objs, err := Render(in)
	if err != nil {
		t.Fatal(err)
	}
	if len(objs) != len(own)+2 {
		t.Errorf("%d objects, want the component's %d and 2", len(objs), len(own))
	}
	i := slices.IndexFunc(objs, func(o *unstructured.Unstructured) bool { return o.GetKind() == "ConfigMap" && o.GetName() == "added" })
	if i < 0 {
		t.Fatal("the chart's ConfigMap is missing")
	}
	if pods, _, _ := unstructured.NestedString(objs[i].Object, "data", "pods"); pods != testFacts.PodCIDR || objs[i].GetNamespace() != "space" || objs[i].GetLabels()[LabelComponent] != "plain" {
		t.Errorf("rendered as %v", objs[i].Object)
	}
	in.Chart["values.yaml"] = []byte("pods: none\nimage: x:1\n")
	if _, err := Render(in); err == nil || !strings.Contains(err.Error(), "has no digest") {
		t.Errorf("an image by tag: %v", err)
	}
}

func TestRenderErrors(t *testing.T) {
	const head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"
	pod := func(image string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec:\n  containers: [{name: a, image: '" + image + "'}]"
	}
	for _, tt := range []struct {
		name, component, file, text string
		change                      func(*RenderInput)
		want                        []string
	}{
		{"unknown fact", "plain", "base/plain/k/objects.yaml", head + "data: {a: 'b ${clusterDns}'}", nil,
			[]string{"component plain: ConfigMap space/x: unknown fact ${clusterDns}", "known: allowedImages, clusterDNS, clusterDomain", "$${clusterDns}"}},
		{"undeclared image", "plain", "base/plain/k/objects.yaml", head + "data: {a: registry.orrery.internal/hepler:v1}", nil,
			[]string{"ConfigMap space/x: image hepler is not one of this component", "declared: helper, tools/server"}},
		{"image not built", "plain", "", "", func(in *RenderInput) { in.Images = map[string]string{"helper": "x"} },
			[]string{"Deployment space/server: image tools/server is declared but was not built"}},
		{"twice", "plain", "base/plain/k/objects.yaml", head + "---\n" + head + "---\n", nil, []string{"kustomize build base/plain/k", "ConfigMap"}},
		{"twice in a chart", "charted", "base/charted/chart/templates/b.yaml", head + "---\n" + strings.Replace(head, "x}", "x, namespace: space}", 1), nil,
			[]string{"ConfigMap space/x is rendered twice"}},
		{"no kustomization", "plain", "", "", func(in *RenderInput) { in.Component.Render.Kustomize = "nowhere" }, []string{"kustomize build base/plain/nowhere"}},
		{"unknown kustomize field", "plain", "base/plain/k/kustomization.yaml", "resource: [a]", nil, []string{"kustomize build", `unknown field "resource"`}},
		{"not an object", "charted", "base/charted/chart/templates/b.yaml", "hello: world", nil, []string{"chart file charted/templates/b.yaml", "not a Kubernetes object"}},
		{"no name", "charted", "base/charted/chart/templates/b.yaml", "apiVersion: v1\nkind: ConfigMap", nil, []string{"a ConfigMap has no metadata.name"}},
		{"bad YAML", "charted", "base/charted/chart/templates/b.yaml", "a: [", nil, []string{"chart file charted/templates/b.yaml"}},
		{"bad template", "charted", "base/charted/chart/templates/b.yaml", "{{ .Values.a.b.c }}", nil, []string{"component charted: chart base/charted/chart", "charted/templates/b.yaml:1"}},
		{"hook", "charted", "base/charted/chart/templates/b.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: x, annotations: {helm.sh/hook: pre-install}}", nil,
			[]string{"b.yaml: Pod x: is a Helm hook (pre-install)"}},
		{"random", "charted", "base/charted/chart/templates/b.yaml", head + "data: {a: {{ randAlphaNum 9 }}}", nil, []string{"b.yaml renders differently each time"}},
		{"values against the schema", "charted", "overlays/local/charted/values.yaml", "replicas: 0", nil, []string{"values.schema.json", "replicas"}},
		{"unknown value", "charted", "overlays/local/charted/values.yaml", "replica: 1", nil, []string{"values.schema.json", "replica"}},
		{"value of another shape", "charted", "overlays/local/charted/values.yaml", "resources: small", nil,
			[]string{"overlays/local/charted/values.yaml: resources: is a plain value, but in the chart's values.yaml a mapping"}},
		{"value that is ours", "charted", "overlays/local/charted/values.yaml", "orrery: {nodes: 1}", nil, []string{"orrery: is set by the environment"}},
		{"image by tag", "plain", "base/plain/k/objects.yaml", pod("nginx:1"), nil,
			[]string{`Pod space/x: base/plain/k/objects.yaml: spec.containers[0].image: image reference "nginx:1" has no digest`, "registry.orrery.internal/NAME"}},
		{"image by half a digest", "plain", "base/plain/k/objects.yaml", pod("nginx@sha256:12"), nil, []string{"spec.containers[0].image", "64 hexadecimal digits"}},
		{"image by tag in a chart", "charted", "base/charted/chart/templates/b.yaml", strings.Replace(pod("ghcr.io/x:1"), "containers", "initContainers", 1), nil,
			[]string{"Pod space/x: base/charted/chart/templates/b.yaml: spec.initContainers[0].image"}},
		{"image volume by tag", "plain", "base/plain/k/objects.yaml", pod("registry.orrery.internal/helper") + "\n  volumes: [{name: v, image: {reference: ghcr.io/x:1}}]", nil, []string{"spec.volumes[0].image.reference"}},
		{"image by tag, deep", "plain", "base/plain/k/objects.yaml", "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: x}\nspec: {jobTemplate: {spec: {template: {spec: {containers: [{name: a, image: a:b:c}]}}}}}", nil,
			[]string{"spec.jobTemplate.spec.template.spec.containers[0].image"}},
		{"nothing", "plain", "base/plain/k/kustomization.yaml", "namePrefix: x", nil, []string{"renders no object"}},
		{"no CRD", "plain", "base/plain/k/objects.yaml", head, func(in *RenderInput) { in.Component.Render.CRDs = "k" },
			[]string{"base/plain/k/kustomization.yaml", "Kind"}},
		{"chart without its files", "plain", "", "", func(in *RenderInput) { in.Overlay.Charts = moduleCharts }, []string{"component plain: chart example.com/m/chart", "Chart.yaml file is missing"}},
		{"no render", "plain", "", "", func(in *RenderInput) { in.Component.Render = catalog.Render{} }, []string{"names neither kustomize nor chart"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			if err := os.CopyFS(root, os.DirFS("testdata/render")); err != nil {
				t.Fatal(err)
			}
			in := input(t, tt.component)
			in.Component.Dir = filepath.Join(root, "base", tt.component)
			in.Overlay.Dir = filepath.Join(root, "overlays", "local")
			if tt.file != "" {
				if err := os.WriteFile(filepath.Join(root, tt.file), []byte(tt.text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if tt.change != nil {
				tt.change(&in)
			}
			_, err := Render(in)
			if err == nil {
				t.Fatal("rendered, want an error")
			}
			for _, want := range append(tt.want, "component "+tt.component) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error\n%v\ndoes not say\n%s", err, want)
				}
			}
		})
	}
}

// shipped is the catalogue of this repository.
func shipped(tb testing.TB) *catalog.Catalog {
	tb.Helper()
	c, err := catalog.Load("../..")
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// absentFiles stand for the CRDs that a component takes from public repositories: no test fetches them.
func absentFiles(c catalog.Component) map[string][]byte {
	files := map[string][]byte{}
	for _, f := range c.Files {
		if f.CRDs {
			files[f.Name] = []byte{}
		}
	}
	return files
}

// TestRepository renders every component of every overlay that this repository ships.
func TestRepository(t *testing.T) {
	c := shipped(t)
	for name, overlay := range c.Overlays {
		overlay.Charts = nil // inside modules: the driver's tests have them
		components, err := c.Select(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		var owner = map[id]string{}
		guarded := map[string]string{}
		for _, component := range components {
			objs, err := Render(RenderInput{Component: component, Overlay: overlay, Facts: testFacts, Files: absentFiles(component)})
			if err != nil {
				t.Errorf("overlay %s: %v", name, err)
			}
			for _, o := range objs {
				if first, taken := owner[refOf(o).id()]; taken {
					t.Errorf("overlay %s: %s is rendered by %s and by %s", name, refOf(o), first, component.Name)
				}
				owner[refOf(o).id()] = component.Name
				if o.GetKind() == "Namespace" && o.GetLabels()["orrery.dev/images"] == "enforced" {
					guarded[o.GetName()] = component.Name
				}
			}
		}
		// What does not wait for the gate has no pods that the gate is there for.
		for i, component := range owner {
			if rankOf(schema.GroupKind{Group: i.group, Kind: i.kind}) == rankWorkload && guarded[i.namespace] != "" && slices.Contains(overlay.Bootstrap, component) {
				t.Errorf("overlay %s: %s of %s is deployed to the guarded namespace %s without waiting for %s", name, i.kind, component, i.namespace, overlay.Gate)
			}
		}
		if overlay.Gate == "" || len(guarded) == 0 {
			t.Errorf("overlay %s: gate %q, guarded namespaces %v", name, overlay.Gate, guarded)
		}
	}
}

func TestSubstitution(t *testing.T) {
	s := substitution{facts: map[string]string{"a": "1"}, images: map[string]string{"x/y-z": "REF", "x": "X", "db": "host/db:1.2@sha256:ab"}}
	for in, want := range map[string]string{
		"":                                       "",
		"${a}${a}":                               "11",
		"$${a} $$ ${ a } ${} $a ${a-b} $(a)":     "${a} $$ ${ a } ${} $a ${a-b} $(a)",
		"registry.orrery.internal/x/y-z:v1.2":    "REF",
		"registry.orrery.internal/x.":            "X.",
		"'registry.orrery.internal/x',":          "'X',",
		"registry.orrery.internal/db#repository": "host/db",
		"registry.orrery.internal/db#tag":        "1.2@sha256:ab",
		"registry.orrery.internal/db:v3#tag":     "1.2@sha256:ab",
		"registry.orrery.internal/db#tags":       "host/db:1.2@sha256:ab#tags",
		"docker.io/registry.orrery.internal":     "docker.io/registry.orrery.internal",
		"http://registry.orrery.internal:5000":   "http://registry.orrery.internal:5000",
	} {
		if got := s.text(in); got != want || s.errs != nil {
			t.Errorf("%q becomes %q, want %q (%v)", in, got, want, s.errs)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, file := range []string{"base/plain/k/objects.yaml", "base/charted/chart/crds/planets.yaml", "base/charted/chart/templates/all.yaml"} {
		text, err := os.ReadFile(filepath.Join("testdata/render", file))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		objs, err := parse(text)
		if err != nil {
			return
		}
		for _, o := range objs {
			if o.GetName() == "" || o.GetKind() == "" {
				t.Errorf("an object without name or kind: %v", o.Object)
			}
			_ = finish(RenderInput{Facts: testFacts}, o, definedKinds([]*unstructured.Unstructured{o}))
		}
		out, err := Manifest(objs)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parse(out); err != nil || len(again) != len(objs) {
			t.Fatalf("what was written cannot be read: %v\n%s", err, bytes.TrimSpace(out))
		}
	})
}

// TestNumbersInValues: a chart gets a fact that is a number as one, and all other text as it stands.
func TestNumbersInValues(t *testing.T) {
	got := numbers(map[string]any{
		"replicas": "${servers}", "text": "${servers} of them", "literal": "$${servers}", "name": "${environment}", "bare": "servers",
		"list": []any{"${nodes}", map[string]any{"n": "${zones}"}},
	}, Facts{Environment: "test", Servers: 3, Nodes: 5, Zones: 2}.values())
	want := map[string]any{
		"replicas": 3, "text": "${servers} of them", "literal": "$${servers}", "name": "${environment}", "bare": "servers",
		"list": []any{5, map[string]any{"n": 2}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("values %v, want %v", got, want)
	}
}
