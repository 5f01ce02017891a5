package licence

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

// TestLinked holds everything that is linked into orrery itself to infra/licences.yaml, the
// list that images and programs of nodes are held to.
func TestLinked(t *testing.T) {
	policy, err := LoadPolicy("../../infra/licences.yaml")
	if err != nil || policy == nil {
		t.Fatalf("%v, %v", policy, err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}\t{{.Dir}}{{end}}{{end}}", "./cmd/orrery")
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.Bytes())
	}
	count := map[string]int{}
	done := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		module, dir, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if module == "" || done[module] {
			continue
		}
		done[module] = true
		found, err := Of(dir)
		if err != nil {
			t.Errorf("%s: %v", module, err)
			continue
		}
		if found, err = policy.Decide(module, found); err != nil {
			t.Errorf("%v; when it is right, say so in infra/licences.yaml, with the reason", err)
		}
		count[found]++
	}
	if len(done) < 10 {
		t.Errorf("only %d modules were looked at", len(done))
	}
	t.Logf("%d modules: %v", len(done), count)
}
