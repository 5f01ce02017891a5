package audit_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/orrery-dev/orrery/internal/audit"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/kube"
)

// counterparts are our checks that look for what a check of trivy does. What both find has one exception,
// under our name.
var counterparts = map[string]string{
	"KSV-0009": "workload-host-namespaces",
	"KSV-0041": "rbac-secrets",
	"KSV-0046": "rbac-wildcard",
	"KSV-0050": "rbac-escalation",
	"KSV-0114": "rbac-webhooks",
	"KSV-0121": "workload-host-path",
}

// theirs is what trivy found.
type theirs struct {
	File, Check, Severity, Title, Detail string

	Object string `json:"-"`
}

// TestMisconfigurations has trivy's checks look at what is rendered, for every overlay: nothing High or
// Critical is outside the list of exceptions, and what a check of ours should see as well, it sees. Of what
// only trivy sees, the exception has trivy's name.
func TestMisconfigurations(t *testing.T) {
	if testing.Short() {
		t.Skip("trivy's checks of all objects take 20 CPU-seconds")
	}
	const root = "../.."
	program, err := exec.CommandContext(t.Context(), filepath.Join(root, "tools/build"), "--cached", "misconfig").Output()
	if err != nil {
		t.Skip("trivy's checks are not compiled (tools/build misconfig): nothing was compared with them")
	}
	b, err := os.ReadFile(filepath.Join(root, "infra/audit-exceptions.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	exceptions, err := audit.LoadExceptions(b)
	if err != nil {
		t.Fatal(err)
	}
	cat, err := catalog.Load(root)
	if err != nil {
		t.Fatal(err)
	}
	rendered := map[string][]audit.Object{}
	for name := range cat.Overlays {
		rendered[name] = renderAll(t, cat, name)
	}
	found := lookAt(t, strings.TrimSpace(string(program)), rendered)
	used := map[audit.Exception]bool{}
	for name, objects := range rendered {
		ours := map[string]bool{}
		report := audit.Run(audit.Evidence{Objects: objects}, exceptions)
		for _, f := range slices.Concat(report.Findings, report.Excepted) {
			ours[f.Check+" "+f.Object] = true
		}
		// Also of components that need a registry, which no test deploys.
		for _, f := range report.Findings {
			if name == "local" && f.Severity.Rank() >= audit.Medium.Rank() {
				t.Errorf("%s: %s %s, and no exception: %s", f.Object, f.Severity, f.Check, f.Detail)
			}
		}
		for _, f := range found[name] {
			check := f.Check
			if own, ok := counterparts[check]; ok {
				if check = own; !ours[own+" "+f.Object] {
					t.Errorf("overlay %s: %s: trivy's %s (%s) found what %s did not: %s", name, f.Object, f.Check, f.Title, own, f.Detail)
				}
			}
			reason := ""
			for _, x := range exceptions.Exceptions {
				one := audit.Exceptions{Exceptions: []audit.Exception{x}}
				if r := one.Reason(check, f.Object); r != "" {
					reason, used[x] = r, true
				}
			}
			if reason == "" {
				t.Errorf("overlay %s: %s: %s %s (%s), and no exception: %s", name, f.Object, f.Severity, f.Check, f.Title, f.Detail)
				continue
			}
			t.Logf("overlay %s: %s: %s (%s): %s", name, f.Object, f.Check, f.Title, reason)
		}
	}
	for _, x := range exceptions.Exceptions {
		if strings.HasPrefix(x.Check, "KSV-") && !used[x] {
			t.Errorf("the exception for %s of %s matches nothing: take it out", x.Check, x.Object)
		}
	}
}

// renderAll are the objects of an overlay, but for charts and files that are not in the repository.
func renderAll(t *testing.T, cat *catalog.Catalog, overlay string) (objects []audit.Object) {
	t.Helper()
	components, err := cat.Select(overlay, nil)
	if err != nil {
		t.Fatal(err)
	}
	o := cat.Overlays[overlay]
	o.Charts = nil
	for _, c := range components {
		files := map[string][]byte{}
		for _, f := range c.Files {
			if f.CRDs {
				files[f.Name] = []byte{}
			}
		}
		images := map[string]string{}
		for _, i := range c.Images {
			images[i.Name] = i.Name + "@sha256:" + strings.Repeat("0", 64)
		}
		rendered, err := kube.Render(kube.RenderInput{Component: c, Overlay: o, Files: files, Images: images, Facts: kube.Facts{
			Environment: "test", ClusterDomain: "cluster.local", ClusterDNS: "10.96.0.10", PodCIDR: "10.244.0.0/16",
			ServiceCIDR: "10.96.0.0/16", Durability: "full", Servers: 3, Nodes: 5, Zones: 3,
		}})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rendered {
			objects = append(objects, r.Object)
		}
	}
	return objects
}

// lookAt runs trivy's checks, and returns what High and Critical ones found, by overlay. Most objects are the
// same in each, and are looked at once.
func lookAt(t *testing.T, program string, rendered map[string][]audit.Object) map[string][]theirs {
	t.Helper()
	dir := t.TempDir()
	overlays, names := map[string][]string{}, map[string]string{} // by file
	for overlay, objects := range rendered {
		for _, o := range objects {
			if o["kind"] == "CustomResourceDefinition" { // the largest by far, and no check is of one
				continue
			}
			b, err := yaml.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			file := fmt.Sprintf("%x.yaml", sha256.Sum256(b))
			overlays[file], names[file] = append(overlays[file], overlay), audit.Name(o)
			if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program, dir)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("trivy's checks: %v\n%s", err, stderr.String())
	}
	t.Logf("%d objects, %.0f CPU-s", len(names), (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds())
	found := map[string][]theirs{}
	for line := range bytes.Lines(out) {
		var f theirs
		if err := json.Unmarshal(line, &f); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if len(overlays[f.File]) == 0 {
			t.Fatalf("trivy found something in %q, which nobody wrote", f.File)
		}
		if f.Severity != "HIGH" && f.Severity != "CRITICAL" {
			continue
		}
		f.Object = names[f.File]
		for _, overlay := range overlays[f.File] {
			found[overlay] = append(found[overlay], f)
		}
	}
	if len(found) == 0 {
		t.Error("trivy found nothing at all, not even what there are exceptions for")
	}
	return found
}
