package observe

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Tempo is a client of its HTTP API (https://grafana.com/docs/tempo/latest/api_docs/).
type Tempo struct{ service }

// NewTempo reaches the Service tempo, port 3200, of [Namespace].
func NewTempo(api API) Tempo { return Tempo{service{api, "Tempo", Namespace, "tempo", 3200}} }

// Trace is one request on its way through the services.
type Trace struct {
	ID string // 32 hexadecimal digits
	// Spans in the order of a waterfall: a parent before its children, children by start.
	Spans []Span
}

// Span is one piece of work in a trace.
type Span struct {
	ID, Parent string // 16 hexadecimal digits; Parent is "" for a root
	Service    string
	Name       string
	Kind       string // server, client, producer, consumer, internal
	Start      time.Time
	Duration   time.Duration
	Failed     bool
	Message    string // of a failure
	Attributes Labels
	Resource   Labels
	Events     []SpanEvent
	Links      []SpanLink
	// Depth below the root of its tree, from 0. A span whose parent is missing is a root.
	Depth int
}

// SpanEvent is something that happened within a span.
type SpanEvent struct {
	Time       time.Time
	Name       string
	Attributes Labels
}

// SpanLink points at a span of this or another trace.
type SpanLink struct{ TraceID, SpanID string }

// Start and Duration of the whole trace, from the first start to the last end.
func (t Trace) Start() time.Time {
	var first time.Time
	for _, s := range t.Spans {
		if first.IsZero() || s.Start.Before(first) {
			first = s.Start
		}
	}
	return first
}

// Duration from the first start to the last end.
func (t Trace) Duration() time.Duration {
	var last time.Time
	for _, s := range t.Spans {
		if end := s.Start.Add(s.Duration); end.After(last) {
			last = end
		}
	}
	if last.IsZero() {
		return 0
	}
	return last.Sub(t.Start())
}

var traceID = regexp.MustCompile(`^[0-9a-f]{1,32}$`)

// ParseTraceID accepts what people paste: up to 32 hexadecimal digits, in either case.
func ParseTraceID(s string) (string, error) {
	id := strings.ToLower(strings.TrimSpace(s))
	if !traceID.MatchString(id) || strings.Trim(id, "0") == "" {
		return "", fmt.Errorf("%q is not a trace id: want up to 32 hexadecimal digits", s)
	}
	return strings.Repeat("0", 32-len(id)) + id, nil
}

// Trace reads one trace; the error of one that is not there wraps [ErrNotFound].
func (t Tempo) Trace(ctx context.Context, id string) (Trace, error) {
	id, err := ParseTraceID(id)
	if err != nil {
		return Trace{}, fmt.Errorf("%w: %w", ErrQuery, err)
	}
	var raw json.RawMessage
	if err := t.get(ctx, "/api/traces/"+id, nil, &raw); err != nil {
		return Trace{}, fmt.Errorf("trace %s: %w", id, err)
	}
	trace, err := decodeTrace(raw)
	if err != nil {
		return Trace{}, fmt.Errorf("%s: trace %s: %w", t.name, id, err)
	}
	if len(trace.Spans) == 0 {
		return Trace{}, fmt.Errorf("%s: trace %s: %w", t.name, id, ErrNotFound)
	}
	trace.ID = id
	return trace, nil
}

// Found is a trace that a search found.
type Found struct {
	ID       string
	Service  string // of the root
	Name     string // of the root
	Start    time.Time
	Duration time.Duration
}

// Search finds the newest traces by a TraceQL query ("{}" means all), newest first. A query
// with hints of its own (with (…)) is left as it is.
func (t Tempo) Search(ctx context.Context, traceql string, r Range, limit int) ([]Found, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	var data struct {
		Traces []struct {
			ID       string `json:"traceID"`
			Service  string `json:"rootServiceName"`
			Name     string `json:"rootTraceName"`
			Start    number `json:"startTimeUnixNano"`
			Duration int64  `json:"durationMs"`
		} `json:"traces"`
	}
	if !strings.Contains(traceql, "with (") && !strings.Contains(traceql, "with(") {
		// Else it takes the first that it comes across, and sorts those.
		traceql += " with (most_recent=true)"
	}
	err := t.get(ctx, "/api/search", url.Values{
		"q": {traceql}, "limit": {strconv.Itoa(limit)},
		"start": {strconv.FormatInt(r.Start.Unix(), 10)}, "end": {strconv.FormatInt(r.End.Unix()+1, 10)},
	}, &data)
	if err != nil {
		return nil, err
	}
	var out []Found
	for _, f := range data.Traces {
		id, err := ParseTraceID(f.ID)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
		out = append(out, Found{id, f.Service, f.Name, f.Start.time(), time.Duration(f.Duration) * time.Millisecond})
	}
	slices.SortStableFunc(out, func(a, b Found) int { return b.Start.Compare(a.Start) })
	return out, nil
}

// number is an integer that JSON carries as a number or as a string.
type number int64

func (n *number) UnmarshalJSON(data []byte) error {
	text := strings.Trim(string(data), `"`)
	if text == "" || text == "null" {
		return nil
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return fmt.Errorf("integer: %w", err)
	}
	*n = number(v)
	return nil
}

func (n number) time() time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(n)).UTC()
}

// otlp is a trace in OTLP's JSON form (opentelemetry-proto, trace/v1), which Tempo calls
// batches in one version of its API and resourceSpans in the other.
type otlp struct {
	Trace         *otlp          `json:"trace"` // API v2 wraps it
	Batches       []otlpResource `json:"batches"`
	ResourceSpans []otlpResource `json:"resourceSpans"`
}

type otlpResource struct {
	Resource struct {
		Attributes attributes `json:"attributes"`
	} `json:"resource"`
	Scopes []otlpScope `json:"scopeSpans"`
	Older  []otlpScope `json:"instrumentationLibrarySpans"`
}

type otlpScope struct {
	Spans []otlpSpan `json:"spans"`
}

type otlpSpan struct {
	TraceID    identifier `json:"traceId"`
	SpanID     identifier `json:"spanId"`
	Parent     identifier `json:"parentSpanId"`
	Name       string     `json:"name"`
	Kind       spanKind   `json:"kind"`
	Start      number     `json:"startTimeUnixNano"`
	End        number     `json:"endTimeUnixNano"`
	Attributes attributes `json:"attributes"`
	Events     []struct {
		Time       number     `json:"timeUnixNano"`
		Name       string     `json:"name"`
		Attributes attributes `json:"attributes"`
	} `json:"events"`
	Links []struct {
		TraceID identifier `json:"traceId"`
		SpanID  identifier `json:"spanId"`
	} `json:"links"`
	Status struct {
		Code    statusCode `json:"code"`
		Message string     `json:"message"`
	} `json:"status"`
}

// identifier is an id in hexadecimal (OTLP's JSON) or base64 (protobuf's JSON).
type identifier string

func (i *identifier) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return fmt.Errorf("id: %w", err)
	}
	if text == "" {
		return nil
	}
	raw, err := hex.DecodeString(text)
	if err != nil || (len(raw) != 8 && len(raw) != 16) {
		if raw, err = base64.StdEncoding.DecodeString(text); err != nil {
			return fmt.Errorf("id %q is neither hexadecimal nor base64", text)
		}
	}
	if len(raw) > 16 {
		return fmt.Errorf("id %q has %d bytes", text, len(raw))
	}
	*i = identifier(hex.EncodeToString(raw))
	return nil
}

type spanKind string

func (k *spanKind) UnmarshalJSON(data []byte) error {
	text := strings.Trim(string(data), `"`)
	if n, err := strconv.Atoi(text); err == nil {
		names := []string{"", "internal", "server", "client", "producer", "consumer"}
		if n >= 0 && n < len(names) {
			*k = spanKind(names[n])
		}
		return nil
	}
	*k = spanKind(strings.ToLower(strings.TrimPrefix(text, "SPAN_KIND_")))
	return nil
}

type statusCode bool // whether it failed

func (c *statusCode) UnmarshalJSON(data []byte) error {
	text := strings.Trim(string(data), `"`)
	*c = text == "2" || text == "STATUS_CODE_ERROR"
	return nil
}

type attributes Labels

func (a *attributes) UnmarshalJSON(data []byte) error {
	var list []struct {
		Key   string                     `json:"key"`
		Value map[string]json.RawMessage `json:"value"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return fmt.Errorf("attributes: %w", err)
	}
	*a = attributes{}
	for _, e := range list {
		for _, v := range e.Value { // one of stringValue, intValue, …
			var text string
			if json.Unmarshal(v, &text) != nil {
				text = string(v)
			}
			(*a)[e.Key] = text
		}
	}
	return nil
}

func decodeTrace(data []byte) (Trace, error) {
	var o otlp
	if err := json.Unmarshal(data, &o); err != nil {
		return Trace{}, err
	}
	if o.Trace != nil {
		o = *o.Trace
	}
	var t Trace
	for _, r := range append(o.Batches, o.ResourceSpans...) {
		resource := Labels(r.Resource.Attributes)
		for _, scope := range append(r.Scopes, r.Older...) {
			for _, s := range scope.Spans {
				if t.ID == "" {
					t.ID = string(s.TraceID)
				}
				t.Spans = append(t.Spans, s.span(resource))
			}
		}
	}
	t.Spans = waterfall(t.Spans)
	return t, nil
}

func (s otlpSpan) span(resource Labels) Span {
	out := Span{
		ID: string(s.SpanID), Parent: string(s.Parent), Service: cmp.Or(resource["service.name"], "unknown"),
		Name: s.Name, Kind: string(s.Kind), Start: s.Start.time(), Duration: max(0, time.Duration(s.End-s.Start)),
		Failed: bool(s.Status.Code), Message: s.Status.Message, Attributes: Labels(s.Attributes), Resource: resource,
	}
	if strings.Trim(out.Parent, "0") == "" {
		out.Parent = ""
	}
	for _, e := range s.Events {
		out.Events = append(out.Events, SpanEvent{e.Time.time(), e.Name, Labels(e.Attributes)})
	}
	for _, l := range s.Links {
		out.Links = append(out.Links, SpanLink{string(l.TraceID), string(l.SpanID)})
	}
	return out
}

// waterfall puts parents before children and sets the depth. Every span comes out exactly
// once, whatever the parents say: one that arrived twice is dropped, a cycle is cut.
func waterfall(spans []Span) []Span {
	slices.SortStableFunc(spans, func(a, b Span) int {
		return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(b.Duration, a.Duration))
	})
	known := map[string]bool{}
	spans = slices.DeleteFunc(spans, func(s Span) bool {
		twice := s.ID != "" && known[s.ID]
		known[s.ID] = true
		return twice
	})
	children := map[string][]int{}
	var roots []int
	for i, s := range spans {
		if s.Parent == "" || !known[s.Parent] || s.Parent == s.ID {
			roots = append(roots, i)
		} else {
			children[s.Parent] = append(children[s.Parent], i)
		}
	}
	out := make([]Span, 0, len(spans))
	done := make([]bool, len(spans))
	type step struct{ span, depth int }
	visit := func(from int) {
		stack := []step{{from, 0}}
		for len(stack) > 0 {
			s := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			if done[s.span] {
				continue
			}
			done[s.span] = true
			spans[s.span].Depth = s.depth
			out = append(out, spans[s.span])
			below := children[spans[s.span].ID]
			for i := len(below) - 1; i >= 0; i-- {
				stack = append(stack, step{below[i], s.depth + 1})
			}
		}
	}
	for _, r := range roots {
		visit(r)
	}
	for i := range spans { // what only a cycle holds
		visit(i)
	}
	return out
}
