package smoke

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/observe"
)

// traces: a trace that two services send through the gateway is found in Tempo, by its id
// and by a search, with every span in its place; and a log line that names it leads there.
func traces(ctx context.Context, env Env) check.Result {
	if r := lacks(env, "tempo"); r != nil {
		return *r
	}
	tempo, loki := observe.NewTempo(env.Client), observe.NewLoki(env.Client)
	withLogs := slices.Contains(env.Components, "loki")
	if r := answers(func() error { _, err := tempo.Search(ctx, "{}", observe.Last(time.Minute), 1); return err }); r != nil {
		return *r
	}
	if withLogs {
		if r := answers(func() error { _, err := loki.Labels(ctx, observe.Last(time.Minute)); return err }); r != nil {
			return *r
		}
	}
	return inSandbox(ctx, env, "traces", func(s *sandbox) (string, error) {
		t := newTrace()
		// The gateway may just be starting again, while what the API says of it is from before.
		if err := until(ctx, arrival, func() error { return sendOTLP(ctx, env, "traces", t.request()) }); err != nil {
			return "", err
		}
		sent := time.Now()
		if err := until(ctx, arrival, func() error { return t.compare(tempo.Trace(ctx, t.id)) }); err != nil {
			return "", err
		}
		delay := time.Since(sent)
		if err := until(ctx, arrival, func() error { return t.search(ctx, tempo) }); err != nil {
			return "", err
		}
		message := fmt.Sprintf("a trace of %d spans is in Tempo after %.1f s and is found by a search", len(t.spans), delay.Seconds())
		if !withLogs {
			return message, nil
		}
		word := "orrery-" + token(8)
		wrote, err := s.print(ctx, "writer", jsonLine(word, t.id, t.spans[1].id))
		if err != nil {
			return "", err
		}
		line, _, err := findLine(ctx, loki, wrote, word)
		if err != nil {
			return "", err
		}
		if line.TraceID() != t.id {
			return "", fmt.Errorf("the log line names trace %s, and Loki says %q", t.id, line.TraceID())
		}
		if err := t.compare(tempo.Trace(ctx, line.TraceID())); err != nil {
			return "", fmt.Errorf("from the log line: %w", err)
		}
		return message + "; a log line leads to it", nil
	})
}

// sentTrace is a request on its way through two services.
type sentTrace struct {
	id    string
	run   string // attribute that a search finds it by
	spans []sentSpan
}

type sentSpan struct {
	id, parent    string
	service, name string
	kind          int // of opentelemetry-proto: 2 server, 3 client, 4 producer, 5 consumer
	start, length time.Duration
}

func newTrace() sentTrace {
	t := sentTrace{id: token(16), run: token(8)}
	ids := []string{token(8), token(8), token(8), token(8)}
	const ms = time.Millisecond
	t.spans = []sentSpan{
		{ids[0], "", "smoke-front", "POST /orders", 2, 0, 90 * ms},
		{ids[1], ids[0], "smoke-front", "publish orders", 4, 10 * ms, 20 * ms},
		{ids[2], ids[1], "smoke-back", "process orders", 5, 35 * ms, 40 * ms},
		{ids[3], ids[2], "smoke-back", "store order", 3, 40 * ms, 30 * ms},
	}
	return t
}

// request is the trace in OTLP's JSON form, a second ago.
func (t sentTrace) request() any {
	begin := time.Now().Add(-time.Second)
	byService := map[string][]any{}
	for _, s := range t.spans {
		byService[s.service] = append(byService[s.service], map[string]any{
			"traceId": t.id, "spanId": s.id, "parentSpanId": s.parent, "name": s.name, "kind": s.kind,
			"startTimeUnixNano": nanos(begin.Add(s.start)), "endTimeUnixNano": nanos(begin.Add(s.start + s.length)),
			"attributes": []any{attribute("orrery.smoke", t.run)},
		})
	}
	var resources []any
	for service, spans := range byService {
		resources = append(resources, map[string]any{
			"resource":   map[string]any{"attributes": []any{attribute("service.name", service)}},
			"scopeSpans": []any{map[string]any{"scope": map[string]any{"name": "orrery verify"}, "spans": spans}},
		})
	}
	return map[string]any{"resourceSpans": resources}
}

// compare says how what Tempo has differs from what was sent. A span that is not there may
// still be on its way; one that is wrong stays wrong.
func (t sentTrace) compare(got observe.Trace, err error) error {
	if err != nil {
		if errors.Is(err, observe.ErrQuery) {
			return check.Final(err)
		}
		return err
	}
	var missing, wrong []string
	for _, want := range t.spans {
		i := slices.IndexFunc(got.Spans, func(s observe.Span) bool { return s.ID == want.id })
		if i < 0 {
			missing = append(missing, want.name)
			continue
		}
		if s := got.Spans[i]; s.Parent != want.parent || s.Service != want.service || s.Name != want.name || s.Duration != want.length {
			wrong = append(wrong, fmt.Sprintf("%s of %s below %q takes %s, sent was %s of %s below %q and %s",
				s.Name, s.Service, s.Parent, s.Duration, want.name, want.service, want.parent, want.length))
		}
	}
	switch {
	case wrong != nil:
		return check.Final(fmt.Errorf("trace %s: %s", t.id, strings.Join(wrong, "; ")))
	case missing != nil:
		return fmt.Errorf("trace %s: Tempo has %d of %d spans, not: %s", t.id, len(t.spans)-len(missing), len(t.spans), strings.Join(missing, ", "))
	case len(got.Spans) != len(t.spans):
		return check.Final(fmt.Errorf("trace %s: %d spans were sent and Tempo has %d", t.id, len(t.spans), len(got.Spans)))
	}
	return nil
}

// search looks the trace up by an attribute.
func (t sentTrace) search(ctx context.Context, tempo observe.Tempo) error {
	found, err := tempo.Search(ctx, fmt.Sprintf("{ span.orrery.smoke = %q }", t.run), observe.Last(10*time.Minute), 5)
	if err != nil {
		return err
	}
	if len(found) != 1 || found[0].ID != t.id {
		return fmt.Errorf("a search for the attributes of trace %s finds %d traces", t.id, len(found))
	}
	return nil
}
