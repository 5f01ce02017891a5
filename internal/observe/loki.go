package observe

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Loki is a client of its HTTP API v1 (https://grafana.com/docs/loki/latest/reference/loki-http-api/).
type Loki struct{ service }

// NewLoki reaches the Service loki, port 3100, of [Namespace].
func NewLoki(api API) Loki { return Loki{service{api, "Loki", Namespace, "loki", 3100}} }

// Line is one line of a log.
type Line struct {
	Time time.Time
	Text string
	// Labels of the stream, and the line's structured metadata (trace_id among them).
	Labels Labels
}

// TraceID is the trace that the line was written in, "" when none is known.
func (l Line) TraceID() string {
	return cmp.Or(l.Labels["trace_id"], l.Labels["traceid"], l.Labels["traceID"])
}

// Order of lines.
type Order string

const (
	NewestFirst Order = "backward"
	OldestFirst Order = "forward"
)

// Query finds up to limit lines in a range, in the given order: with NewestFirst the limit
// keeps the newest.
func (l Loki) Query(ctx context.Context, logql string, r Range, limit int, order Order) ([]Line, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	q := l.params(logql, r)
	q.Set("limit", strconv.Itoa(limit))
	q.Set("direction", string(order))
	data, err := ask[result](ctx, l.service, "/loki/api/v1/query_range", q)
	if err != nil {
		return nil, err
	}
	if data.Type != "streams" {
		return nil, fmt.Errorf("%s: %w: %s gives numbers (%s), not lines", l.name, ErrQuery, logql, data.Type)
	}
	lines, err := linesOf(data.Result)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.name, err)
	}
	slices.SortStableFunc(lines, func(a, b Line) int {
		if order == OldestFirst {
			return a.Time.Compare(b.Time)
		}
		return b.Time.Compare(a.Time)
	})
	return lines, nil
}

// QueryRange evaluates a query that gives numbers, such as a rate, at every step.
func (l Loki) QueryRange(ctx context.Context, logql string, r Range) ([]Series, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	q := l.params(logql, r)
	q.Set("step", strconv.FormatFloat(r.step().Seconds(), 'f', 3, 64))
	data, err := ask[result](ctx, l.service, "/loki/api/v1/query_range", q)
	if err != nil {
		return nil, err
	}
	s, err := data.series()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.name, err)
	}
	return s, nil
}

func (l Loki) params(logql string, r Range) url.Values {
	return url.Values{"query": {logql}, "start": {nanos(r.Start)}, "end": {nanos(r.End)}}
}

func nanos(t time.Time) string { return strconv.FormatInt(t.UnixNano(), 10) }

// IsNumeric guesses whether a LogQL query gives numbers: one that gives lines begins with
// the selector of a stream.
func IsNumeric(logql string) bool { return !strings.HasPrefix(strings.TrimSpace(logql), "{") }

// Labels are the names of the labels that streams have in a range.
func (l Loki) Labels(ctx context.Context, r Range) ([]string, error) {
	return ask[[]string](ctx, l.service, "/loki/api/v1/labels", url.Values{"start": {nanos(r.Start)}, "end": {nanos(r.End)}})
}

// LabelValues are the values of a label in a range; an empty match means all streams.
func (l Loki) LabelValues(ctx context.Context, label, match string, r Range) ([]string, error) {
	q := url.Values{"start": {nanos(r.Start)}, "end": {nanos(r.End)}}
	if match != "" {
		q.Set("query", match)
	}
	return ask[[]string](ctx, l.service, "/loki/api/v1/label/"+url.PathEscape(label)+"/values", q)
}

func linesOf(data json.RawMessage) ([]Line, error) {
	var streams []struct {
		Labels Labels              `json:"stream"`
		Values [][]json.RawMessage `json:"values"`
	}
	if err := json.Unmarshal(data, &streams); err != nil {
		return nil, fmt.Errorf("streams: %w", err)
	}
	var lines []Line
	for _, s := range streams {
		for _, v := range s.Values {
			line, err := lineOf(v, s.Labels)
			if err != nil {
				return nil, err
			}
			lines = append(lines, line)
		}
	}
	return lines, nil
}

// lineOf decodes [nanoseconds, text] with, perhaps, {"structuredMetadata": {…}} behind.
func lineOf(v []json.RawMessage, labels Labels) (Line, error) {
	var at, text string
	if len(v) < 2 {
		return Line{}, fmt.Errorf("line: %d parts, want a time and a text", len(v))
	}
	if err := json.Unmarshal(v[0], &at); err != nil {
		return Line{}, fmt.Errorf("time of a line: %w", err)
	}
	if err := json.Unmarshal(v[1], &text); err != nil {
		return Line{}, fmt.Errorf("text of a line: %w", err)
	}
	n, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return Line{}, fmt.Errorf("time of a line: %w", err)
	}
	line := Line{Time: time.Unix(0, n).UTC(), Text: text, Labels: labels}
	if len(v) > 2 {
		var more struct {
			Structured Labels `json:"structuredMetadata"`
			Parsed     Labels `json:"parsed"`
		}
		if json.Unmarshal(v[2], &more) == nil && len(more.Structured)+len(more.Parsed) > 0 {
			all := Labels{}
			for _, m := range []Labels{more.Parsed, more.Structured, labels} {
				for k, x := range m {
					all[k] = x
				}
			}
			line.Labels = all
		}
	}
	return line, nil
}
