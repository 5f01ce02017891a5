package console

import (
	"cmp"
	"context"
	"encoding/json"
	"html/template"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/dashboard"
	"github.com/orrery-dev/orrery/internal/observe"
)

var (
	levelWord = regexp.MustCompile(`(?i)\b(?:level|severity|lvl)["']?\s*[=:]\s*["']?(trace|debug|info|warn|warning|error|err|fatal|panic|critical)\b`)
	klogHead  = regexp.MustCompile(`^([IWEF])\d{4} \d{2}:\d{2}:\d{2}`)
	traceWord = regexp.MustCompile(`(?i)\btrace_?id["']?\s*[=:]\s*["']?([0-9a-f]{32})\b`)
	natsHead  = regexp.MustCompile(`^\[\d+\] \S+ \S+ \[(INF|WRN|ERR|DBG|FTL)\]`)
)

// level is what a line says of its own weight: by label, else by its own words.
func level(l observe.Line) string {
	word := strings.ToLower(cmp.Or(l.Labels["severity_text"], l.Labels["severity"], l.Labels["level"]))
	if word == "" || word == "unknown" {
		if m := levelWord.FindStringSubmatch(l.Text); m != nil {
			word = strings.ToLower(m[1])
		} else if m := klogHead.FindStringSubmatch(l.Text); m != nil {
			word = map[string]string{"I": "info", "W": "warn", "E": "error", "F": "fatal"}[m[1]]
		} else if m := natsHead.FindStringSubmatch(l.Text); m != nil {
			word = map[string]string{"INF": "info", "WRN": "warn", "ERR": "error", "DBG": "debug", "FTL": "fatal"}[m[1]]
		} else {
			word = strings.ToLower(l.Labels["detected_level"]) // Loki's guess, by any word of the line
		}
	}
	switch {
	case strings.HasPrefix(word, "err"), word == "fatal", word == "panic", word == "critical":
		return "error"
	case strings.HasPrefix(word, "warn"):
		return "warn"
	case word == "debug", word == "trace":
		return "debug"
	}
	return "info"
}

// traceOf is the trace that a line belongs to, by label or by its own words.
func traceOf(l observe.Line) string {
	id := l.TraceID()
	if id == "" {
		if m := traceWord.FindStringSubmatch(l.Text); m != nil {
			id = m[1]
		}
	}
	if parsed, err := observe.ParseTraceID(id); err == nil {
		return parsed
	}
	return ""
}

// origin is where a line comes from.
func origin(l observe.Labels) (namespace, pod string) {
	return cmp.Or(l["k8s_namespace_name"], l["namespace"]),
		cmp.Or(l["k8s_pod_name"], l["pod"], l["service_name"], l["job"])
}

// message is the part of a line that is meant for people, if it is JSON with one, and the
// fields beside it.
func message(text string) (string, string) {
	if !strings.HasPrefix(text, "{") {
		return text, ""
	}
	var fields map[string]any
	if json.Unmarshal([]byte(text), &fields) != nil {
		return text, ""
	}
	head, _ := fields["msg"].(string)
	if head == "" {
		head, _ = fields["message"].(string)
	}
	if head == "" {
		return text, ""
	}
	var rest []string
	for k, v := range fields {
		switch k {
		case "msg", "message", "time", "ts", "timestamp", "level", "severity", "trace_id", "span_id":
			continue
		}
		data, err := json.Marshal(v)
		if err != nil {
			continue
		}
		rest = append(rest, k+"="+strings.Trim(string(data), `"`))
	}
	slices.Sort(rest)
	return head, strings.Join(rest, "  ")
}

// maxLine is how much of a line is shown: a dump would fill the page.
const maxLine = 600

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + " …"
}

func drawLines(lines []observe.Line) template.HTML {
	var d drawing
	d.f(`<ol class="lines">`)
	for _, l := range lines {
		namespace, pod := origin(l.Labels)
		head, rest := message(l.Text)
		lev := level(l)
		d.f(`<li class="%s"><time datetime="%s">%s</time>`, lev, l.Time.UTC().Format(time.RFC3339Nano), l.Time.Local().Format("15:04:05.000"))
		d.f(`<span class="lev" title="%[1]s">%[1]s</span>`, lev)
		if namespace != "" {
			namespace += "/"
		}
		d.f(`<span class="from">%s<b>%s</b></span>`, esc(namespace), esc(pod))
		d.f(`<span class="text">%s`, esc(cut(head, maxLine)))
		if rest != "" {
			d.f(` <span class="rest">%s</span>`, esc(cut(rest, maxLine/2)))
		}
		d.f(`</span>`)
		if id := traceOf(l); id != "" {
			d.f(`<a class="go" href="/traces/%s" aria-label="trace %s">trace</a>`, id, id[:8])
		}
		d.f(`</li>`)
	}
	d.f(`</ol>`)
	return d.html()
}

func drawFound(found []observe.Found) template.HTML {
	var longest time.Duration
	for _, f := range found {
		longest = max(longest, f.Duration)
	}
	var d drawing
	d.f(`<div class="scroll" tabindex="0" role="region" aria-label="Traces"><table class="found"><thead><tr><th scope="col">Began</th><th scope="col">Service</th><th scope="col">Request</th><th scope="col" class="n">Took</th><th><span class="sr">Share</span></th><th scope="col">Trace</th></tr></thead><tbody>`)
	for _, f := range found {
		share := 0.0
		if longest > 0 {
			share = 1000 * float64(f.Duration) / float64(longest)
		}
		d.f(`<tr><td><time datetime="%s">%s</time></td><td>%s</td><td>%s</td><td class="n">%s</td><td class="share"><svg viewBox="0 0 1000 1" preserveAspectRatio="none" aria-hidden="true"><rect class="track" width="1000" height="1"/><rect class="bar" width="%s" height="1"/></svg></td><td><a class="mono" href="/traces/%s">%s</a></td></tr>`,
			f.Start.UTC().Format(time.RFC3339Nano), f.Start.Local().Format("15:04:05"), esc(f.Service), esc(f.Name), esc(dashboard.Duration(f.Duration)), num(share), f.ID, f.ID[:8])
	}
	d.f(`</tbody></table></div>`)
	return d.html()
}

// queryData is the form of a page that asks in a language of queries.
type queryData struct {
	Query, Range string
	Ranges       []choice
	Examples     []choice
}

var logExamples = []struct{ text, logql string }{
	{"everything", `{service_name=~".+"}`},
	{"errors", `{service_name=~".+"} |~ "(?i)error|fatal|panic"`},
	{"messaging", `{k8s_namespace_name="messaging"}`},
	{"observability", `{k8s_namespace_name="observability"}`},
	{"pulse", `{service_name=~"pulse.*"}`},
}

func (c *Console) logs(ctx context.Context, r *http.Request) (*view, error) {
	q := r.URL.Query()
	query := cmp.Or(strings.TrimSpace(q.Get("q")), logExamples[0].logql)
	span := spanOf(q.Get("range"), time.Hour)
	data := queryData{Query: query, Range: q.Get("range"), Ranges: choices(r.URL, span)}
	for _, e := range logExamples {
		data.Examples = append(data.Examples, choice{e.text, logsOf(e.logql), e.logql == query})
	}
	v := &view{Template: "logs.html", Title: "Logs", Data: data}
	var html template.HTML
	switch {
	case len(query) > 4000:
		html = `<p class="none">This query is too long.</p>`
	case observe.IsNumeric(query):
		html = `<p class="none">A search selects lines: begin with a selector, such as {service_name="pulse"}. Numbers belong on a dashboard.</p>`
	default:
		h, stale, ok := c.drawer.get(ctx, ask{dashboard.Dashboard{Name: "logs search"},
			dashboard.Panel{Title: query, Kind: dashboard.Logs, Height: 200, Queries: []dashboard.Query{{Expr: query}}}, nil, span})
		html = h
		if !ok {
			html = `<p class="wait"><span class="sr">loading</span></p>`
		} else if stale {
			html = `<p class="stale">from before; asking again</p>` + h
		}
	}
	v.add("lines", html)
	return v, nil
}
