package smoke

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

const (
	rulesDir    = "../../../infra/k8s/base/prometheus/rules"
	runbooksDir = "../../../docs/runbooks"
	runbookURL  = "https://github.com/orrery-dev/orrery/blob/main/docs/runbooks/"
)

// alertRules are all alerting rules of an overlay: name → rule.
func alertRules(t *testing.T, overlay string) map[string]map[string]any {
	t.Helper()
	found := map[string]map[string]any{}
	_, objs := rendered(t, overlay)
	for _, o := range objs {
		if o.GetKind() != "PrometheusRule" {
			continue
		}
		groups, _, _ := unstructured.NestedSlice(o.Object, "spec", "groups")
		for _, g := range groups {
			rules, _ := g.(map[string]any)["rules"].([]any)
			for _, r := range rules {
				rule := r.(map[string]any)
				name, ok := rule["alert"].(string)
				if !ok {
					continue
				}
				if found[name] != nil {
					t.Errorf("two alerts are called %s", name)
				}
				found[name] = rule
			}
		}
	}
	return found
}

// TestRunbooks: every alert says how bad it is, what it is about and where its runbook is,
// and there is a runbook for every alert and no other.
func TestRunbooks(t *testing.T) {
	alerts := alertRules(t, "local")
	if prod := alertRules(t, "prod"); !slices.Equal(slices.Sorted(maps.Keys(alerts)), slices.Sorted(maps.Keys(prod))) {
		t.Error("local and prod have different alerts")
	}
	index, err := os.ReadFile(filepath.Join(runbooksDir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for name, rule := range alerts {
		if severity := get(rule, "labels", "severity"); !slices.Contains([]any{"critical", "warning", "info", "none"}, severity) {
			t.Errorf("%s: severity is %v; must be critical, warning, info or none", name, severity)
		}
		for _, field := range []string{"summary", "description"} {
			if s, _ := get(rule, "annotations", field).(string); s == "" {
				t.Errorf("%s: no %s", name, field)
			}
		}
		if url := get(rule, "annotations", "runbook_url"); url != runbookURL+name+".md" {
			t.Errorf("%s: runbook_url is %v", name, url)
		}
		book, err := os.ReadFile(filepath.Join(runbooksDir, name+".md"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, part := range []string{"# " + name + "\n", "\n## Meaning\n", "\n## Look\n", "\n## Do\n"} {
			if !strings.Contains(string(book), part) {
				t.Errorf("%s.md lacks %q", name, strings.TrimSpace(part))
			}
		}
		if !strings.Contains(string(index), "("+name+".md)") {
			t.Errorf("docs/runbooks/README.md does not list %s", name)
		}
	}
	files, err := filepath.Glob(filepath.Join(runbooksDir, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`\]\(([A-Za-z]+\.md)\)`)
	for _, file := range files {
		if name := strings.TrimSuffix(filepath.Base(file), ".md"); name != "README" && alerts[name] == nil {
			t.Errorf("%s: there is no such alert", file)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, to := range link.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(runbooksDir, to[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", file, to[1])
			}
		}
	}
}

// promtool runs Prometheus's own tool: ORRERY_TEST_PROMTOOL, or the one on PATH.
func promtool(t *testing.T, dir string, args ...string) string {
	t.Helper()
	file := os.Getenv("ORRERY_TEST_PROMTOOL")
	if file == "" {
		var err error
		if file, err = exec.LookPath("promtool"); err != nil {
			t.Skip("promtool is neither on PATH nor in ORRERY_TEST_PROMTOOL; tools/build promtool compiles it (a CPU-minute when Prometheus itself is built already, else six)")
		}
	}
	cmd := exec.CommandContext(t.Context(), file, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// ruleFiles writes the rules of the platform as Prometheus itself reads them, and the unit
// tests beside them.
func ruleFiles(t *testing.T) (dir string, rules, tests []string) {
	t.Helper()
	dir = t.TempDir()
	_, objs := rendered(t, "local")
	for _, o := range objs {
		if o.GetKind() != "PrometheusRule" {
			continue
		}
		text, err := yaml.Marshal(o.Object["spec"])
		if err != nil {
			t.Fatal(err)
		}
		name := o.GetName() + ".yaml"
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
		rules = append(rules, name)
	}
	sources, err := filepath.Glob(filepath.Join(rulesDir, "tests", "*.yaml"))
	if err != nil || len(sources) == 0 {
		t.Fatalf("no tests in %s: %v", rulesDir, err)
	}
	for _, source := range sources {
		text, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		name := "test-" + filepath.Base(source)
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
		tests = append(tests, name)
	}
	return dir, rules, tests
}

// TestRules has promtool read every rule and run the unit tests.
func TestRules(t *testing.T) {
	dir, rules, tests := ruleFiles(t)
	promtool(t, dir, append([]string{"check", "rules", "--lint=all", "--lint-fatal"}, rules...)...)
	promtool(t, dir, append([]string{"test", "rules"}, tests...)...)
}

// TestEveryAlertIsTested: there is a unit test that has it fire, and one that has it silent.
func TestEveryAlertIsTested(t *testing.T) {
	dir, _, tests := ruleFiles(t)
	var all strings.Builder
	for _, name := range tests {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	for name := range alertRules(t, "local") {
		if name == "OrreryVerify" { // fires in every run of verify
			continue
		}
		if !strings.Contains(all.String(), "name: "+name+" fires\n") {
			t.Errorf("no unit test has %s fire", name)
		}
		if name != "Watchdog" && !strings.Contains(all.String(), "name: "+name+" is silent\n") {
			t.Errorf("no unit test has %s silent", name)
		}
	}
}
