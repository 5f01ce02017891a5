package audit

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// Exception lets a finding be, for a reason.
type Exception struct {
	// Check and Object of the finding. A * in Object stands for any text.
	Check  string `json:"check"`
	Object string `json:"object"`
	Reason string `json:"reason"`
	// Component that the object belongs to, or several with spaces between: where one is not deployed, nothing
	// has to match.
	Component string `json:"component,omitempty"`
}

// Exceptions is the one list of what is let be.
type Exceptions struct {
	APIVersion string      `json:"apiVersion"`
	Kind       string      `json:"kind"` // AuditExceptions
	Exceptions []Exception `json:"exceptions"`
}

// UnusedException is the check that finds exceptions which match nothing.
const UnusedException = "exception-unused"

// otherTools are prefixes of checks that are not ours: the list is theirs too.
var otherTools = []string{"AVD-", "KSV-"}

// LoadExceptions reads the list, strictly.
func LoadExceptions(b []byte) (Exceptions, error) {
	var e Exceptions
	if err := yaml.UnmarshalStrict(b, &e); err != nil {
		return e, fmt.Errorf("exceptions of the audit: %w", err)
	}
	if e.Kind != "AuditExceptions" || e.APIVersion != "orrery.dev/v1alpha1" {
		return e, fmt.Errorf("exceptions of the audit: want apiVersion orrery.dev/v1alpha1 and kind AuditExceptions, not %q and %q", e.APIVersion, e.Kind)
	}
	known := map[string]bool{}
	for _, c := range All() {
		known[c.ID] = true
	}
	var errs []error
	for i, x := range e.Exceptions {
		switch {
		case x.Check == "" || x.Object == "" || strings.TrimSpace(x.Reason) == "":
			errs = append(errs, fmt.Errorf("exceptions[%d]: check, object and reason are needed", i))
		case strings.Trim(x.Object, "*/") == "":
			errs = append(errs, fmt.Errorf("exceptions[%d]: object %q would match everything: name what is excepted", i, x.Object))
		case !known[x.Check] && !ofOtherTool(x.Check):
			errs = append(errs, fmt.Errorf("exceptions[%d]: there is no check %q: 'orrery audit --list' prints them", i, x.Check))
		}
	}
	return e, errors.Join(errs...)
}

func ofOtherTool(check string) bool {
	for _, p := range otherTools {
		if strings.HasPrefix(check, p) {
			return true
		}
	}
	return false
}

// Reason is why a finding is let be; empty when it is not.
func (e Exceptions) Reason(check, object string) string { return e.use().reason(check, object) }

type usage struct {
	all  []Exception
	used []bool
}

func (e Exceptions) use() *usage { return &usage{e.Exceptions, make([]bool, len(e.Exceptions))} }

func (u *usage) reason(check, object string) string {
	reason := ""
	for i, x := range u.all {
		if x.Check == check && matches(x.Object, object) {
			u.used[i], reason = true, x.Reason
		}
	}
	return reason
}

// unused exceptions of checks that ran, for components that are there.
func (u *usage) unused(ran, deployed map[string]bool) []Finding {
	var all []Finding
	for i, x := range u.all {
		away := slices.ContainsFunc(strings.Fields(x.Component), func(c string) bool { return !deployed[c] })
		if u.used[i] || !ran[x.Check] || away {
			continue
		}
		all = append(all, Finding{
			Check: UnusedException, Title: "An exception matches nothing", Severity: Medium, Object: x.Object,
			Detail: "nothing that " + x.Check + " found is called this", Reference: "docs/reference/audit.md",
			Mend: "take the exception out of infra/audit-exceptions.yaml",
		})
	}
	return all
}

// matches: * stands for any text.
func matches(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	if !strings.HasPrefix(text, parts[0]) {
		return false
	}
	text = text[len(parts[0]):]
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(text, p)
		if i < 0 {
			return false
		}
		text = text[i+len(p):]
	}
	return strings.HasSuffix(text, parts[len(parts)-1])
}
