package app

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/orrery-dev/orrery/internal/audit"
)

// TestSecurityDocuments: every file that they name is there, and so is every part of the suite.
func TestSecurityDocuments(t *testing.T) {
	suite, err := os.ReadFile(filepath.Join(docsRoot, "test", "e2e", "security_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	links := 0
	for _, doc := range []string{"SECURITY.md", "docs/security.md", "docs/reference/audit.md"} {
		b, err := os.ReadFile(filepath.Join(docsRoot, doc))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(string(b), -1) {
			links++
			if _, err := os.Stat(filepath.Join(docsRoot, filepath.Dir(doc), m[1])); err != nil {
				t.Errorf("%s names %s: %v", doc, m[1], err)
			}
		}
		for _, m := range regexp.MustCompile("TestSecurity/([a-z-]+)").FindAllStringSubmatch(string(b), -1) {
			if !regexp.MustCompile(`"` + m[1] + `": +[a-zA-Z]+[,\n]`).Match(suite) {
				t.Errorf("%s names the attacks %q, which the suite does not have", doc, m[1])
			}
		}
	}
	if links < 15 {
		t.Errorf("only %d links were looked at", links)
	}
}

// TestAuditExceptions: the list of the catalogue can be read.
func TestAuditExceptions(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(docsRoot, "infra", "audit-exceptions.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.LoadExceptions(b); err != nil {
		t.Error(err)
	}
}

func TestAuditVerb(t *testing.T) {
	s := newSmall(t)
	if code, _, errs := s.run("audit", "--severity", "dire"); code != exitUsage {
		t.Errorf("an unknown severity: %d %s", code, errs)
	}
	if code, out, errs := s.run("audit", "--list", "-o", "json"); code != exitOK || len(out) < 1000 {
		t.Errorf("the list: %d %s", code, errs)
	}
	if code, _, _ := s.run("audit"); code != exitFailed {
		t.Errorf("without an environment: %d", code)
	}
}
