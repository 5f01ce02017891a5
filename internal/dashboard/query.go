package dashboard

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Selection is what a person chose: variable → value. A missing or empty value is all.
type Selection map[string]string

// Expand puts the selection and the intervals into an expression, for a range that is
// drawn with a step. A chosen value is quoted, so that it matches itself and nothing else.
func (d Dashboard) Expand(expr string, chosen Selection, span, step time.Duration) string {
	// Four scrapes of the slowest targets, so that one that was missed leaves no gap.
	rate := max(step, 2*time.Minute)
	return usage.ReplaceAllStringFunc(expr, func(used string) string {
		switch n := strings.Trim(used, "${}"); n {
		case "__rate_interval":
			return promDuration(rate)
		case "__interval":
			return promDuration(max(step, 15*time.Second))
		case "__range":
			return promDuration(span)
		default:
			i := slices.IndexFunc(d.Variables, func(v Variable) bool { return v.Name == n })
			if i < 0 {
				return used
			}
			v := d.Variables[i]
			value, given := chosen[n]
			if !given {
				value = v.Default
			}
			switch {
			case value == "" && v.Text:
				return ""
			case value == "":
				return cmp.Or(v.All, ".*")
			case v.Text:
				return quoted(value)
			}
			return quoted(regexp.QuoteMeta(value))
		}
	})
}

// quoted makes text safe within the quotes of a query.
func quoted(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "`", "").Replace(s)
}

func promDuration(d time.Duration) string { return fmt.Sprintf("%ds", max(1, int(d.Seconds()))) }

// Name of a series by a legend; labels gives the value of a label.
func Name(text string, labels func(string) string) string {
	return strings.TrimSpace(legend.ReplaceAllStringFunc(text, func(m string) string {
		return labels(legend.FindStringSubmatch(m)[1])
	}))
}

// Use is one query where it stands.
type Use struct {
	Dashboard, Row string
	Panel          Panel
	Query          Query
	Source         Source
	// Expr with everything selected and the dashboard's own range.
	Expr string
}

// Where names the place for a person.
func (u Use) Where() string {
	return fmt.Sprintf("dashboard %s, row %q, panel %q", u.Dashboard, u.Row, u.Panel.Title)
}

// Queries are all of the dashboard, in the order of the page.
func (d Dashboard) Queries() []Use {
	var uses []Use
	span := d.Span()
	for _, r := range d.Rows {
		for _, p := range r.Panels {
			for _, q := range p.Queries {
				uses = append(uses, Use{d.Name, r.Title, p, q, p.SourceOf(q), d.Expand(q.Expr, nil, span, span/100)})
			}
		}
	}
	return uses
}
