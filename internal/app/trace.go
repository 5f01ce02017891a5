package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/dashboard"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/observe"
	"github.com/orrery-dev/orrery/internal/ui"
)

// traceReport is what `trace -o json` prints; its form is a contract.
type traceReport struct {
	ID      string       `json:"id"`
	Start   time.Time    `json:"start"`
	Seconds float64      `json:"seconds"`
	Spans   []spanReport `json:"spans"`
}

type spanReport struct {
	ID         string         `json:"id"`
	Parent     string         `json:"parent,omitempty"`
	Depth      int            `json:"depth"`
	Service    string         `json:"service"`
	Name       string         `json:"name"`
	Kind       string         `json:"kind,omitempty"`
	Start      time.Time      `json:"start"`
	Seconds    float64        `json:"seconds"`
	Failed     bool           `json:"failed"`
	Message    string         `json:"message,omitempty"`
	Attributes observe.Labels `json:"attributes"`
}

func newTrace(o *options) *cobra.Command {
	var search string
	since := span(time.Hour)
	c := &cobra.Command{
		Use:   "trace [ID]",
		Short: "Show a request on its way through the services, or find some",
		Long: `Show the trace with this id as a waterfall: who called whom, when, and how long it took.
The id stands in log lines (trace_id) and in exemplars. Without an id, list the newest
traces, or those that a TraceQL query finds.`,
		Example: `  orrery trace
  orrery trace --search '{ resource.service.name = "pulse" && duration > 50ms }' --since 15m
  orrery trace 4bf92f3577b34da6a3ce929d0e0e4736`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return runTraceSearch(c.Context(), o, search, since)
			}
			if c.Flags().Changed("search") {
				return failure.Usagef("give an id or --search, not both")
			}
			return runTrace(c.Context(), o, args[0])
		},
	}
	c.Flags().StringVar(&search, "search", "{}", "TraceQL query that selects traces, when there is no id")
	spanFlag(c, &since, "since", "how far to search back")
	return c
}

func runTrace(ctx context.Context, o *options, id string) error {
	id, err := observe.ParseTraceID(id)
	if err != nil {
		return failure.Usage{Err: err}
	}
	_, client, err := o.observed(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	t, err := observe.NewTempo(client).Trace(ctx, id)
	if errors.Is(err, observe.ErrNotFound) {
		return fmt.Errorf("%w; a new trace can be read some seconds after its last span, an old one is forgotten", err)
	}
	if err != nil {
		return err
	}
	if o.json() {
		return printJSON(o.out, reportTrace(t))
	}
	return printTrace(o.out, t, 40)
}

func reportTrace(t observe.Trace) traceReport {
	r := traceReport{ID: t.ID, Start: t.Start(), Seconds: t.Duration().Seconds(), Spans: []spanReport{}}
	for _, s := range t.Spans {
		r.Spans = append(r.Spans, spanReport{s.ID, s.Parent, s.Depth, s.Service, s.Name, s.Kind, s.Start, s.Duration.Seconds(), s.Failed, s.Message, s.Attributes})
	}
	return r
}

// printTrace draws a bar of up to width characters for each span, in eighths of one.
func printTrace(w io.Writer, t observe.Trace, width int) error {
	services := map[string]bool{}
	for _, s := range t.Spans {
		services[s.Service] = true
	}
	start, whole := t.Start(), t.Duration()
	fmt.Fprintf(w, "Trace %s\n%d spans in %s, %s, began %s\n\n", t.ID, len(t.Spans), strings.Join(slices.Sorted(maps.Keys(services)), ", "),
		dashboard.Duration(whole), start.Format("2006-01-02 15:04:05.000 MST"))
	rows := make([][]string, 0, len(t.Spans))
	for _, s := range t.Spans {
		name := strings.Repeat("· ", min(s.Depth, 12)) + s.Name
		if r := []rune(name); len(r) > 56 {
			name = string(r[:55]) + "…"
		}
		took := dashboard.Duration(s.Duration)
		if s.Failed {
			took += "  ✗ " + cmp.Or(s.Message, "failed")
		}
		rows = append(rows, []string{s.Service, name, "│" + bar(s.Start.Sub(start), s.Duration, whole, width) + "│", took})
	}
	end := dashboard.Duration(whole)
	scale := "0" + strings.Repeat(" ", max(1, width+1-len([]rune(end)))) + end
	return ui.Table(w, []string{"SERVICE", "SPAN", scale, "TOOK"}, rows)
}

// bar is a line of width characters in which from offset on, for a length, is filled. A
// span that is too short to be seen still is.
func bar(offset, length, whole time.Duration, width int) string {
	if whole <= 0 {
		return strings.Repeat("█", width)
	}
	eighths := []rune(" ▏▎▍▌▋▊▉█")
	at := func(d time.Duration) int { return int(float64(d) / float64(whole) * float64(8*width)) }
	from := min(at(offset)/8, width-1)
	filled := max(1, min(at(offset+length)-8*from, 8*(width-from)))
	b := strings.Repeat(" ", from) + strings.Repeat("█", filled/8)
	if filled%8 > 0 {
		b += string(eighths[filled%8])
	}
	return b + strings.Repeat(" ", width-len([]rune(b)))
}

func runTraceSearch(ctx context.Context, o *options, traceql string, since span) error {
	_, client, err := o.observed(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	found, err := observe.NewTempo(client).Search(ctx, traceql, since.last(), 20)
	if err != nil {
		return refusedQuery(err)
	}
	type summary struct {
		ID      string    `json:"id"`
		Service string    `json:"service"`
		Name    string    `json:"name"`
		Start   time.Time `json:"start"`
		Seconds float64   `json:"seconds"`
	}
	all, rows := []summary{}, [][]string{}
	for _, f := range found {
		all = append(all, summary{f.ID, f.Service, f.Name, f.Start, f.Duration.Seconds()})
		rows = append(rows, []string{f.ID, f.Start.Local().Format(time.TimeOnly), dashboard.Duration(f.Duration), f.Service, f.Name})
	}
	if o.json() {
		return printJSON(o.out, all)
	}
	if len(rows) == 0 {
		_, err := fmt.Fprintln(o.err, "no traces")
		return err
	}
	return ui.Table(o.out, []string{"TRACE", "BEGAN", "TOOK", "SERVICE", "NAME"}, rows)
}
