package audit

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strings"
)

// SARIF is the report as SARIF 2.1.0, which code hosts show
// (https://docs.oasis-open.org/sarif/sarif/v2.1.0/). What is excepted is suppressed there.
func (r Report) SARIF(version string) ([]byte, error) {
	type object = map[string]any
	levels := map[Severity]string{Low: "note", Medium: "warning", High: "error", Critical: "error"}
	scores := map[Severity]string{Low: "3.0", Medium: "5.5", High: "8.0", Critical: "9.5"} // as GitHub reads them
	rules, index := []object{}, map[string]int{}
	add := func(c Check) {
		index[c.ID] = len(rules)
		rule := object{
			"id": c.ID, "shortDescription": object{"text": c.Title}, "help": object{"text": c.Mend + " (" + c.Reference + ")"},
			"defaultConfiguration": object{"level": levels[c.Severity]},
			"properties":           object{"security-severity": scores[c.Severity], "tags": []string{"security"}},
		}
		for _, part := range strings.Split(c.Reference, " · ") {
			if strings.HasPrefix(part, "https://") {
				rule["helpUri"] = part
			}
		}
		rules = append(rules, rule)
	}
	for _, c := range All() {
		add(c)
	}
	add(Check{ID: UnusedException, Title: "An exception matches nothing", Severity: Medium, Reference: "docs/reference/audit.md", Mend: "take it out of the list"})
	results := []object{}
	for _, f := range append(append([]Finding{}, r.Findings...), r.Excepted...) {
		h := fnv.New64a()
		fmt.Fprint(h, f.Check, "\x00", f.Object, "\x00", f.Detail)
		result := object{
			"ruleId": f.Check, "ruleIndex": index[f.Check], "level": levels[f.Severity],
			"message": object{"text": f.Object + ": " + f.Detail + ". " + f.Mend + "."},
			// Hosts of code want a place in it: the catalogue is where nearly all is mended.
			"locations": []object{{
				"physicalLocation": object{"artifactLocation": object{"uri": "infra"}, "region": object{"startLine": 1}},
				"logicalLocations": []object{{"fullyQualifiedName": f.Object, "kind": "resource"}},
			}},
			"partialFingerprints": object{"orrery/v1": fmt.Sprintf("%016x", h.Sum64())},
		}
		if f.Excepted != "" {
			result["suppressions"] = []object{{"kind": "external", "status": "accepted", "justification": f.Excepted}}
		}
		results = append(results, result)
	}
	notes := []object{}
	for _, s := range r.Skipped {
		notes = append(notes, object{"level": "warning", "message": object{"text": s.Check + " was skipped: " + s.Reason},
			"associatedRule": object{"id": s.Check, "index": index[s.Check]}})
	}
	return json.MarshalIndent(object{
		"$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json", "version": "2.1.0",
		"runs": []object{{
			"tool":        object{"driver": object{"name": "orrery audit", "version": version, "rules": rules}},
			"invocations": []object{{"executionSuccessful": true, "toolExecutionNotifications": notes}},
			"results":     results,
		}},
	}, "", "  ")
}
