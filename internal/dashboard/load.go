package dashboard

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/catalog"
)

// maxFile bounds what is read: a real dashboard has a few hundred lines.
const maxFile = 1 << 20

// Folder of a component that holds its dashboards.
const Folder = "dashboards"

// LoadAll reads the dashboards of every component of the catalogue at root, in the order
// of the pages. The error joins every mistake found, each with file, line and field.
func LoadAll(root string) ([]Dashboard, error) {
	files, err := filepath.Glob(filepath.Join(root, catalog.BaseDir, "*", Folder, "*.yaml"))
	if err != nil {
		return nil, fmt.Errorf("dashboards of %s: %w", root, err)
	}
	var all []Dashboard
	var errs []error
	where := map[string]string{}
	for _, file := range files {
		if filepath.Base(file) == "kustomization.yaml" {
			continue
		}
		shown := file
		if r, err := filepath.Rel(root, file); err == nil {
			shown = filepath.ToSlash(r)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			errs = append(errs, fmt.Errorf("dashboard: %w", err))
			continue
		}
		d, err := Parse(data, shown)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if other, twice := where[d.Name]; twice {
			errs = append(errs, fmt.Errorf("%s: name: %s is the name of %s too; names are addresses", shown, d.Name, other))
		}
		where[d.Name] = shown
		d.Component, d.File = filepath.Base(filepath.Dir(filepath.Dir(file))), file
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b Dashboard) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Name, b.Name))
	})
	return all, errors.Join(errs...)
}

func rank(d Dashboard) int {
	if d.Order == 0 {
		return 1 << 20
	}
	return d.Order
}

// Parse reads one dashboard strictly. file heads the messages; its base name must be the
// dashboard's name.
func Parse(data []byte, file string) (Dashboard, error) {
	var d Dashboard
	if len(data) > maxFile {
		return d, fmt.Errorf("%s: has %d bytes; a dashboard has a few hundred lines", file, len(data))
	}
	if errs := catalog.Decode(data, &d); len(errs) > 0 {
		for i, err := range errs {
			errs[i] = fmt.Errorf("%s:%w", file, err)
		}
		return Dashboard{}, errors.Join(errs...)
	}
	c := checker{file: file, lines: fieldLines(data)}
	c.dashboard(d)
	if len(c.errs) > 0 {
		return Dashboard{}, errors.Join(c.errs...)
	}
	return d, nil
}

type checker struct {
	file  string
	lines map[string]int // field path → line
	errs  []error
}

func (c *checker) fail(path, format string, a ...any) {
	where := c.file
	if line := c.line(path); line > 0 {
		where = fmt.Sprintf("%s:%d", c.file, line)
	}
	c.errs = append(c.errs, fmt.Errorf("%s: %s: %s", where, path, fmt.Sprintf(format, a...)))
}

// line of a field, or of what it should stand in.
func (c *checker) line(path string) int {
	for path != "" {
		if l, ok := c.lines[path]; ok {
			return l
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return 0
}

var (
	name     = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	variable = regexp.MustCompile(`^[a-z][a-z0-9]*$`)
	usage    = regexp.MustCompile(`\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))`)
	legend   = regexp.MustCompile(`\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}`)
)

// builtin stand for themselves in Grafana too.
var builtin = []string{"__rate_interval", "__range", "__interval"}

func oneOf[T ~string](c *checker, path string, v T, want ...T) {
	if !slices.Contains(want, v) {
		var names []string
		for _, w := range want {
			if w != "" {
				names = append(names, string(w))
			}
		}
		c.fail(path, "is %q; must be one of %s", string(v), strings.Join(names, ", "))
	}
}

func (c *checker) text(path, v string) {
	if strings.TrimSpace(v) == "" {
		c.fail(path, "is missing; people read it")
	}
}

func (c *checker) dashboard(d Dashboard) {
	if d.APIVersion != catalog.APIVersion {
		c.fail("apiVersion", "is %q; must be %q", d.APIVersion, catalog.APIVersion)
	}
	if d.Kind != "Dashboard" {
		c.fail("kind", "is %q; must be \"Dashboard\"", d.Kind)
	}
	if base := strings.TrimSuffix(filepath.Base(c.file), ".yaml"); d.Name != base || !name.MatchString(d.Name) {
		c.fail("name", "is %q; must be the file's (%q), in small letters, digits and hyphens", d.Name, base)
	}
	c.text("title", d.Title)
	c.text("description", d.Description)
	if v, err := time.ParseDuration(d.Range); d.Range != "" && (err != nil || v < time.Minute || v > 31*24*time.Hour) {
		c.fail("range", "is %q; must be a duration from 1m to 744h, such as 30m", d.Range)
	}
	vars := map[string]bool{}
	for i, v := range d.Variables {
		path := fmt.Sprintf("variables[%d]", i)
		if !variable.MatchString(v.Name) || vars[v.Name] {
			c.fail(path+".name", "is %q; must be small letters and digits, once", v.Name)
		}
		vars[v.Name] = true
		c.text(path+".title", v.Title)
		oneOf(c, path+".source", v.Source, "", Prometheus, Loki)
		if v.All != "" && (v.All != ".*" && v.All != ".+") {
			c.fail(path+".all", "is %q; must be .* or .+", v.All)
		}
		if v.Text == (v.Label != "") {
			c.fail(path+".label", "exactly one of label and text: true is needed: values of a label to choose from, or free text")
		}
	}
	if len(d.Rows) == 0 {
		c.fail("rows", "is empty; a dashboard shows something")
	}
	for i, r := range d.Rows {
		path := fmt.Sprintf("rows[%d]", i)
		c.text(path+".title", r.Title)
		if len(r.Panels) == 0 {
			c.fail(path+".panels", "is empty")
		}
		titles := map[string]bool{}
		for j, p := range r.Panels {
			panel := fmt.Sprintf("%s.panels[%d]", path, j)
			if titles[p.Title] {
				c.fail(panel+".title", "%q is another panel's of this row too", p.Title)
			}
			titles[p.Title] = true
			c.panel(panel, p, vars)
		}
	}
}

func (c *checker) panel(path string, p Panel, vars map[string]bool) {
	c.text(path+".title", p.Title)
	oneOf(c, path+".kind", p.Kind, TimeSeries, Stat, Bar, Table, Logs, Trace, Topology)
	c.unit(path+".unit", p.Unit)
	if p.Width < 0 || p.Width > 12 {
		c.fail(path+".width", "is %d; must be 1 to 12 twelfths of the page", p.Width)
	}
	if p.Height < 0 || p.Height > 30 {
		c.fail(path+".height", "is %d; must be 1 to 30 lines", p.Height)
	}
	if p.Min != nil && p.Max != nil && *p.Min >= *p.Max {
		c.fail(path+".min", "is %g, not below max (%g)", *p.Min, *p.Max)
	}
	for i, t := range p.Thresholds {
		at := fmt.Sprintf("%s.thresholds[%d]", path, i)
		oneOf(c, at+".state", t.State, OK, Warning, Critical, Neutral)
		if i > 0 && t.From <= p.Thresholds[i-1].From {
			c.fail(at+".from", "is %g; must rise from one threshold to the next", t.From)
		}
	}
	if p.Kind == Table && len(p.Labels) == 0 {
		c.fail(path+".labels", "is empty; a table needs labels for its first columns")
	}
	if p.Kind != Table && len(p.Labels) > 0 {
		c.fail(path+".labels", "is for tables only")
	}
	if p.Stack && p.Kind != TimeSeries {
		c.fail(path+".stack", "is for timeseries only")
	}
	if p.Empty != "" && !p.EmptyWhenHealthy {
		c.fail(path+".empty", "needs emptyWhenHealthy: true")
	}
	if len(p.Queries) == 0 {
		c.fail(path+".queries", "is empty")
	}
	for i, q := range p.Queries {
		c.query(fmt.Sprintf("%s.queries[%d]", path, i), p, q, vars)
	}
}

func (c *checker) unit(path string, u Unit) {
	oneOf(c, path, u, Count, Ratio, Bytes, BytesPerSecond, Seconds, PerSecond, Cores, Timestamp)
}

func (c *checker) query(path string, p Panel, q Query, vars map[string]bool) {
	if strings.TrimSpace(q.Expr) == "" {
		c.fail(path+".expr", "is missing")
	}
	if err := balanced(q.Expr); err != nil {
		c.fail(path+".expr", "%v", err)
	}
	c.unit(path+".unit", q.Unit)
	if q.Unit != "" && p.Kind != Table {
		c.fail(path+".unit", "is for tables, whose queries are columns; give the panel a unit")
	}
	switch want := p.SourceOf(Query{}); {
	case p.Kind == Logs || p.Kind == Trace:
		oneOf(c, path+".source", q.Source, "", want)
	default:
		oneOf(c, path+".source", q.Source, "", Prometheus, Loki)
	}
	if q.Exemplars && (p.Kind != TimeSeries || p.SourceOf(q) != Prometheus) {
		c.fail(path+".exemplars", "is for timeseries from Prometheus")
	}
	if p.Kind == Table && len(p.Queries) > 1 && q.Legend == "" {
		c.fail(path+".legend", "is missing; it is the title of the column")
	}
	for _, m := range usage.FindAllStringSubmatch(q.Expr, -1) {
		used := m[1] + m[2]
		if !vars[used] && !slices.Contains(builtin, used) {
			c.fail(path+".expr", "$%s is no variable of this dashboard; there are %s", used, strings.Join(sortedKeys(vars), ", "))
		}
	}
	if strings.Count(q.Legend, "{{") != len(legend.FindAllString(q.Legend, -1)) {
		c.fail(path+".legend", "is %q; {{label}} stands for a label", q.Legend)
	}
}

// balanced finds what a person gets wrong most: brackets and quotes. The servers judge the
// rest.
func balanced(expr string) error {
	var open []byte
	for i := 0; i < len(expr); i++ {
		switch ch := expr[i]; ch {
		case '#':
			end := strings.IndexByte(expr[i:], '\n')
			if end < 0 {
				end = len(expr) - i
			}
			i += end
		case '"', '\'', '`':
			j := i + 1
			for j < len(expr) && expr[j] != ch {
				if expr[j] == '\\' && ch != '`' {
					j++
				}
				j++
			}
			if j >= len(expr) {
				return fmt.Errorf("a quote (%c) is not closed", ch)
			}
			i = j
		case '(', '[', '{':
			open = append(open, ch)
		case ')', ']', '}':
			pairs := map[byte]byte{')': '(', ']': '[', '}': '{'}
			if len(open) == 0 || open[len(open)-1] != pairs[ch] {
				return fmt.Errorf("%q closes nothing", string(ch))
			}
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		return fmt.Errorf("%q is not closed", string(open[len(open)-1]))
	}
	return nil
}

func sortedKeys(m map[string]bool) []string {
	keys := []string{"__rate_interval", "__range"}
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
