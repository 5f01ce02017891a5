package kube

import (
	"strings"
	"testing"
)

func TestDiff(t *testing.T) {
	c := connect(t)
	ns := namespace(t, c)
	diff := func(text string) []Change {
		t.Helper()
		changes, err := c.Diff(t.Context(), ns, objects(t, ns, text))
		if err != nil {
			t.Fatal(err)
		}
		return changes
	}
	secret := func(value string) string {
		return "---\n{apiVersion: v1, kind: Secret, metadata: {name: s}, data: {same: c2FtZQ==, differs: " + value + "}}\n"
	}
	base := deploymentYAML + secret("b2xk")

	// Everything is new, and a dry run makes nothing.
	for _, ch := range diff(base + crdYAML + planetYAML) {
		if ch.Action != ActionCreate || !strings.HasPrefix(ch.Diff, "diff ") || !strings.Contains(ch.Diff, "\n+kind: "+ch.Object.Kind+"\n") {
			t.Errorf("%s %s:\n%s", ch.Action, ch.Object, ch.Diff)
		}
	}
	if exists(t, c, ns, "Deployment", "web") {
		t.Fatal("the dry run made something")
	}
	mustApply(t, c, ns, objects(t, ns, base+configMap("gone", "1")))
	if changes := diff(base + configMap("gone", "1")); len(changes) != 0 {
		t.Errorf("after the apply still: %+v", changes)
	}

	changes := diff(strings.Replace(deploymentYAML, "replicas: 2", "replicas: 3", 1) + secret("bmV3") + configMap("new", "1"))
	var got []string
	for _, ch := range changes {
		got = append(got, ch.Action+" "+ch.Object.Kind+" "+ch.Object.Name)
		for _, noise := range []string{"managedFields", "resourceVersion", "uid:", "status:", "generation"} {
			if strings.Contains(ch.Diff, noise) {
				t.Errorf("%s shows %s:\n%s", ch.Object, noise, ch.Diff)
			}
		}
		switch ch.Object.Kind {
		case "Secret":
			if strings.Contains(ch.Diff, "b2xk") || strings.Contains(ch.Diff, "bmV3") || strings.Contains(ch.Diff, "c2FtZQ") {
				t.Errorf("a secret shows:\n%s", ch.Diff)
			}
			if !strings.Contains(ch.Diff, "-  differs: '<redacted: old value>'\n+  differs: '<redacted: new value>'\n   same: <redacted>") {
				t.Errorf("secret:\n%s", ch.Diff)
			}
		case "Deployment":
			if !strings.Contains(ch.Diff, "-  replicas: 2\n+  replicas: 3\n") {
				t.Errorf("deployment:\n%s", ch.Diff)
			}
		}
	}
	want := "create ConfigMap new, change Secret s, change Deployment web, prune ConfigMap gone"
	if strings.Join(got, ", ") != want {
		t.Errorf("changes: %s\nwant: %s", strings.Join(got, ", "), want)
	}
	if exists(t, c, ns, "ConfigMap", "new") || !exists(t, c, ns, "ConfigMap", "gone") {
		t.Error("the dry run changed the cluster")
	}
}

// TestDiffBeforeItsNamespace compares a component that brings its own namespace.
func TestDiffBeforeItsNamespace(t *testing.T) {
	c := connect(t)
	changes, err := c.Diff(t.Context(), "fresh", objects(t, "fresh", "{apiVersion: v1, kind: Namespace, metadata: {name: fresh}}\n"+configMap("a", "1")))
	if err != nil || len(changes) != 2 {
		t.Errorf("changes = %+v, %v", changes, err)
	}
	changes, err = c.Diff(t.Context(), "fresh", objects(t, "made-by-another", configMap("a", "1")))
	if err != nil || len(changes) != 1 {
		t.Errorf("changes = %+v, %v", changes, err)
	}
}
