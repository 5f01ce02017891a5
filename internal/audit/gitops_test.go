package audit_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/audit"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/gitops"
)

// TestGitOpsRights: the roles that a push of the whole platform gives Argo CD are as the exceptions say, and
// without a hand-over these need not match.
func TestGitOpsRights(t *testing.T) {
	const root = "../.."
	b, err := os.ReadFile(filepath.Join(root, "infra/audit-exceptions.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	all, err := audit.LoadExceptions(b)
	if err != nil {
		t.Fatal(err)
	}
	var exceptions audit.Exceptions
	for _, x := range all.Exceptions {
		if strings.HasPrefix(x.Component, "gitops") {
			exceptions.Exceptions = append(exceptions.Exceptions, x)
		}
	}
	cat, err := catalog.Load(root)
	if err != nil {
		t.Fatal(err)
	}
	var objects []gitops.Object
	var pushed []*unstructured.Unstructured
	for _, o := range renderAll(t, cat, "local") {
		u := &unstructured.Unstructured{Object: o}
		plural, _ := meta.UnsafeGuessKindToResource(u.GroupVersionKind())
		objects = append(objects, gitops.Object{Group: plural.Group, Kind: u.GetKind(), Resource: plural.Resource, Namespace: u.GetNamespace(), Name: u.GetName()})
		pushed = append(pushed, u)
	}
	var rights []audit.Object
	for _, o := range gitops.Rights(objects, gitops.Bound(pushed)) {
		rights = append(rights, o.Object)
	}
	report := audit.Run(audit.Evidence{Objects: rights}, exceptions)
	for _, f := range report.Findings {
		if f.Severity.Rank() >= audit.Medium.Rank() {
			t.Errorf("%s: %s, and no exception: %s", f.Object, f.Check, f.Detail)
		}
	}
	if len(report.Excepted) == 0 {
		t.Error("nothing was excepted")
	}
	for _, f := range audit.Run(audit.Evidence{}, exceptions).Findings {
		t.Errorf("without a hand-over: %s %s", f.Check, f.Object)
	}
}
