package kube

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/catalog"
)

const pinnedCRD = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.acme.test}
spec:
  group: acme.test
  names: {kind: Thing, plural: things}
  scope: Namespaced
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
`

const pinnedRBAC = `apiVersion: v1
kind: ServiceAccount
metadata: {name: operator}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: unwanted}
`

// A component's files are rendered through its kustomization, with its patches, and nothing of them
// is on the disk; those with kinds are applied as they stand.
func TestPinnedFiles(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("base/operator/kustomization.yaml", `resources: [files/rbac.yaml]
patches:
  - patch: '{"$patch": "delete", "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "unwanted"}}'
`)
	write("overlays/prod/operator/kustomization.yaml", "resources: [../../../base/operator, ../../../base/operator/files/more.yaml]\n")
	in := RenderInput{
		Component: catalog.Component{Name: "operator", Namespace: "space", Dir: filepath.Join(root, "base/operator"), Render: catalog.Render{Kustomize: "."}, Files: []catalog.File{
			{Name: "rbac.yaml", URL: "https://x.test/rbac.yaml"}, {Name: "crd.yaml", URL: "https://x.test/crd.yaml", CRDs: true}, {Name: "more.yaml"}}},
		Facts: testFacts,
		Files: map[string][]byte{"rbac.yaml": []byte(pinnedRBAC), "crd.yaml": []byte(pinnedCRD), "more.yaml": []byte(strings.Split(strings.ReplaceAll(pinnedRBAC, "operator", "more"), "---")[0])},
	}
	rendered := func() string {
		t.Helper()
		objs, err := Render(in)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, o := range objs {
			names = append(names, refOf(o).String())
		}
		return strings.Join(names, ", ")
	}
	if got := rendered(); strings.Count(got, ",") != 1 || !strings.Contains(got, "things.acme.test") || !strings.Contains(got, "space/operator") {
		t.Errorf("rendered: %s", got)
	}
	in.Overlay = catalog.Overlay{Name: "prod", Dir: filepath.Join(root, "overlays/prod")}
	if got := rendered(); !strings.Contains(got, "space/more") {
		t.Errorf("an overlay renders: %s", got)
	}

	refused := func(want string) {
		t.Helper()
		if _, err := Render(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nsays nothing of %q", err, want)
		}
	}
	all := in.Files
	in.Files = map[string][]byte{"crd.yaml": all["crd.yaml"]}
	refused("rbac.yaml, more.yaml are not here")
	in.Files = map[string][]byte{"crd.yaml": []byte(pinnedRBAC), "rbac.yaml": all["rbac.yaml"], "more.yaml": all["more.yaml"]}
	refused("https://x.test/crd.yaml: a ServiceAccount is no CustomResourceDefinition")
	in.Files = all
	write("base/operator/kustomization.yaml", "resources: [files/rback.yaml]\n")
	refused("none of the files that component.yaml lists")
}
