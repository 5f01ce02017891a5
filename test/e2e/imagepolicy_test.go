package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// imagePolicy: guarded namespaces run what the lock names and what orrery.yaml allows, and
// nothing else; apps is only warned.
func imagePolicy(t *testing.T, e *environment) {
	const foreign = "ghcr.io/acme/tool@sha256:4bc453b53cb3d914b45f4b250294236adba2c0e09ff6f03793949e7e39fd4cc1"
	probe := ""
	for line := range strings.Lines(e.run(t, "kubectl", "-n", "platform", "get", "configmap", "image-policy", "-o", "jsonpath={.data.images}")) {
		if strings.HasPrefix(line, "registry.orrery.internal/probe:") {
			probe = strings.TrimSpace(line)
		}
	}
	if probe == "" {
		t.Fatal("the probe is not among the allowed images")
	}
	pod := func(namespace, image string) string {
		return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: image-policy, namespace: %s}
spec:
  automountServiceAccountToken: false
  securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: main
      image: %s
      args: [serve]
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
`, namespace, image)
	}
	apply := func(manifest string, args ...string) result {
		return e.invoke(t.Context(), strings.NewReader(manifest), append([]string{"kubectl", "create", "-f", "-"}, args...)...)
	}
	refused := func(r result, says ...string) {
		t.Helper()
		for _, want := range append(says, "orrery-images") {
			if r.code == 0 || !strings.Contains(r.stderr, want) {
				t.Errorf("want it refused with %q: %v", want, r)
			}
		}
	}
	const try = "--dry-run=server"
	for _, namespace := range []string{"platform", "data", "messaging", "observability", "observability-agents"} {
		refused(apply(pod(namespace, "registry.orrery.internal/probe:latest"), try), `container main: image "registry.orrery.internal/probe:latest" has no digest`, "Namespace "+namespace)
	}
	refused(apply(pod("data", foreign), try), foreign+`" is neither in orrery.lock nor allowed`, "images.allow of orrery.yaml")
	digit := "0"
	if strings.HasSuffix(probe, digit) {
		digit = "1"
	}
	refused(apply(pod("data", probe[:len(probe)-1]+digit), try), "is neither in orrery.lock nor allowed")
	if r := apply(pod("apps", "nginx:1"), try); r.code != 0 || !strings.Contains(r.stderr, `Warning: `) || !strings.Contains(r.stderr, "neither of the mirror nor named by digest") {
		t.Errorf("apps is to be warned: %v", r)
	}

	// A pod that runs gets no other image, in no way.
	if r := apply(pod("platform", probe)); r.code != 0 {
		t.Fatal(r)
	}
	defer e.try(t, "kubectl", "-n", "platform", "delete", "pod", "image-policy", "--now", "--wait=false")
	refused(e.try(t, "kubectl", "-n", "platform", "debug", "image-policy", "--image=busybox:1", "--profile=restricted"), `image "busybox:1" has no digest`, "ephemeral container debugger")
	refused(e.try(t, "kubectl", "-n", "platform", "set", "image", "pod/image-policy", "main="+foreign), "is neither in orrery.lock nor allowed")
	if r := e.try(t, "kubectl", "-n", "platform", "label", "pod", "image-policy", "a=b"); r.code != 0 {
		t.Error(r)
	}

	// orrery.yaml may allow more, and take it back.
	given := e.file
	rest := limits()
	if given != "" {
		text, err := os.ReadFile(given)
		if err != nil {
			t.Fatal(err)
		}
		rest = string(text[strings.Index(string(text), e.name)+len(e.name)+1:])
	}
	if err := e.write(t.TempDir(), rest+"images: {allow: ["+foreign+"]}\n"); err != nil {
		t.Fatal(err)
	}
	e.run(t, "up", "--skip-verify", "--plain")
	if r := apply(pod("data", foreign), try); r.code != 0 {
		t.Errorf("allowed: %v", r)
	}
	e.file = given
	e.run(t, "up", "--skip-verify", "--plain")
	refused(apply(pod("data", foreign), try), "is neither in orrery.lock nor allowed")
}
