package kube

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var ruleKind = schema.GroupKind{Group: "monitoring.coreos.com", Kind: "PrometheusRule"}

var (
	// promDuration is Prometheus's form of a time span, such as 1h30m.
	promDuration = regexp.MustCompile(`^(0|([0-9]+y)?([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?)$`)
	metricName   = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	labelName    = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
)

// checkRules refuses a PrometheusRule that Prometheus would not load, as far as that can be
// told without its parser, which would double what it takes to compile the command line: the
// shape of groups and rules, and brackets and quotes of expressions. In the cluster the
// operator would leave such rules out, and an alert that nobody misses would be missing.
func checkRules(o *unstructured.Unstructured) []error {
	if o.GroupVersionKind().GroupKind() != ruleKind {
		return nil
	}
	var errs []error
	bad := func(path, format string, a ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{path}, a...)...))
	}
	groups, _, err := unstructured.NestedSlice(o.Object, "spec", "groups")
	if err != nil || len(groups) == 0 {
		bad("spec.groups", "must be a list with at least one group")
	}
	seen := map[string]bool{}
	for i, g := range groups {
		path := fmt.Sprintf("spec.groups[%d]", i)
		group, ok := g.(map[string]any)
		if !ok {
			bad(path, "must be a group: name and rules")
			continue
		}
		name, _ := group["name"].(string)
		switch {
		case name == "":
			bad(path+".name", "is missing")
		case seen[name]:
			bad(path+".name", "%q is used already; names of groups are unique in a file", name)
		}
		seen[name] = true
		checkDuration(bad, path+".interval", group["interval"])
		rules, ok := group["rules"].([]any)
		if !ok || len(rules) == 0 {
			bad(path+".rules", "must be a list with at least one rule")
		}
		for j, r := range rules {
			path := fmt.Sprintf("%s.rules[%d]", path, j)
			if rule, ok := r.(map[string]any); ok {
				checkRule(bad, path, rule)
			} else {
				bad(path, "must be a rule: alert or record, and expr")
			}
		}
	}
	return errs
}

func checkRule(bad func(path, format string, a ...any), path string, rule map[string]any) {
	alert, _ := rule["alert"].(string)
	record, _ := rule["record"].(string)
	switch {
	case alert == "" && record == "":
		bad(path, "names neither alert nor record; give one")
	case alert != "" && record != "":
		bad(path, "names both alert and record; give one")
	case record != "" && !metricName.MatchString(record):
		bad(path+".record", "is %q; must be a metric's name: letters, digits, \"_\" and \":\"", record)
	}
	for _, field := range []string{"for", "keep_firing_for", "annotations"} {
		if record != "" && rule[field] != nil {
			bad(path+"."+field, "is of alerts, and this rule records")
		}
	}
	for field := range rule {
		switch field {
		case "alert", "record", "expr", "for", "keep_firing_for", "labels", "annotations":
		default:
			bad(path+"."+field, "is no field of a rule; must be one of alert, record, expr, for, keep_firing_for, labels, annotations")
		}
	}
	checkDuration(bad, path+".for", rule["for"])
	checkDuration(bad, path+".keep_firing_for", rule["keep_firing_for"])
	for _, field := range []string{"labels", "annotations"} {
		texts, ok := rule[field].(map[string]any)
		if rule[field] != nil && !ok {
			bad(path+"."+field, "must be names and texts")
		}
		for k, v := range texts {
			if !labelName.MatchString(k) {
				bad(path+"."+field, "%q is no name; must be letters, digits and \"_\"", k)
			}
			if _, ok := v.(string); !ok {
				bad(path+"."+field+"."+k, "is %v; must be a text: put it in quotes", v)
			}
		}
	}
	switch expr := rule["expr"].(type) {
	case string:
		if err := balanced(expr); err != nil {
			bad(path+".expr", "%w", err)
		}
	case int64, float64: // a constant
	default:
		bad(path+".expr", "is missing; must be a PromQL expression")
	}
}

func checkDuration(bad func(path, format string, a ...any), path string, v any) {
	if v == nil {
		return
	}
	if d, ok := v.(string); !ok || d == "" || !promDuration.MatchString(d) {
		bad(path, "is %v; must be a time span such as 30s or 1h30m", v)
	}
}

// balanced looks for what a slip of the hand leaves in an expression: nothing at all, an open
// bracket, an open quote.
func balanced(expr string) error {
	if strings.TrimSpace(expr) == "" {
		return errors.New("is empty; must be a PromQL expression")
	}
	var open []rune
	closes := map[rune]rune{')': '(', ']': '[', '}': '{'}
	quote := rune(0)
	escaped, comment := false, false
	for i, c := range expr {
		switch {
		case comment:
			comment = c != '\n'
		case quote != 0:
			switch {
			case escaped:
				escaped = false
			case c == '\\' && quote != '`':
				escaped = true
			case c == quote:
				quote = 0
			}
		case c == '#':
			comment = true
		case c == '"' || c == '\'' || c == '`':
			quote = c
		case c == '(' || c == '[' || c == '{':
			open = append(open, c)
		case closes[c] != 0:
			if len(open) == 0 || open[len(open)-1] != closes[c] {
				return fmt.Errorf("has a %q at byte %d that closes nothing", c, i)
			}
			open = open[:len(open)-1]
		}
	}
	switch {
	case quote != 0:
		return fmt.Errorf("has a %q that is not closed", quote)
	case len(open) > 0:
		return fmt.Errorf("has a %q that is not closed", open[len(open)-1])
	}
	return nil
}

// fileOf finds the file that an object was declared in, for a message: base/… or
// overlays/…, or "" when it was generated.
func fileOf(in RenderInput, o *unstructured.Unstructured) string {
	found := ""
	for _, dir := range []string{in.Component.Dir, filepath.Join(in.Overlay.Dir, in.Component.Name)} {
		if !filepath.IsAbs(dir) {
			continue
		}
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".yaml" {
				return nil //nolint:nilerr // this is for a better message only
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return nil //nolint:nilerr // likewise
			}
			docs, err := parse(text)
			if err != nil {
				return nil //nolint:nilerr // likewise
			}
			for _, doc := range docs {
				if doc.GetKind() == o.GetKind() && doc.GetName() == o.GetName() {
					found = short(in, path)
				}
			}
			return nil
		})
	}
	return found
}
