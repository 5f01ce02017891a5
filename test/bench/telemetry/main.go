package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

type options struct {
	spans, lines int
	length       time.Duration
	kill         string
	keep         bool
}

func main() {
	var o options
	flag.IntVar(&o.spans, "spans", 10_000, "spans a second, sent to the gateway")
	flag.IntVar(&o.lines, "lines", 10_000, "lines a second, written to the log files of five pods")
	flag.DurationVar(&o.length, "for", 30*time.Second, "how long")
	flag.StringVar(&o.kill, "kill", "", "what is killed in the middle: loki, tempo, gateway or agent")
	flag.BoolVar(&o.keep, "keep", false, "keep the folder with data and logs")
	flag.Parse()
	if flag.NArg() > 0 || !slices.Contains([]string{"", "loki", "tempo", "gateway", "agent"}, o.kill) {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "telemetry:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, out io.Writer) error {
	dir, err := os.MkdirTemp("/var/tmp", "orrery-telemetry-")
	if err != nil {
		return err
	}
	if o.keep {
		fmt.Fprintln(out, dir)
	} else {
		defer os.RemoveAll(dir)
	}
	repo, err := exec.CommandContext(ctx, "git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		return fmt.Errorf("find the repository: %w", err)
	}
	s, err := newStage(ctx, strings.TrimSpace(string(repo)), dir)
	if err != nil {
		return err
	}
	defer s.stop()
	if err := s.start(ctx); err != nil {
		return err
	}
	return measure(ctx, s, o, out)
}

// measure sends and writes for a while, then looks for all of it.
func measure(ctx context.Context, s *stage, o options, out io.Writer) error {
	spans := &sender{url: fmt.Sprintf("http://127.0.0.1:%d/v1/traces", s.ports["otlp-http"])}
	lines := &writer{dir: s.dir + "/pods"}
	begin := time.Now()
	load, cancel := context.WithTimeout(ctx, o.length)
	defer cancel()
	var running sync.WaitGroup
	var writing error
	var lineDelays, traceDelays []time.Duration
	running.Go(func() { spans.run(load, o.spans) })
	running.Go(func() { writing = lines.run(load, o.lines) })
	if o.kill == "" {
		running.Go(func() { lineDelays = s.lineDelays(load, lines) })
		running.Go(func() { traceDelays = s.traceDelays(load, spans) })
	} else {
		running.Go(func() {
			p := s.all[o.kill]
			pause(load, o.length/2)
			p.kill()
			pause(load, 5*time.Second)
			if p.start() == nil {
				_ = p.await(ctx)
			}
		})
	}
	running.Wait()
	if writing != nil {
		return writing
	}
	used := map[string]time.Duration{}
	for name, p := range s.all {
		used[name] = p.used()
	}
	took := time.Since(begin)
	fmt.Fprintf(out, "%d spans acknowledged, %d refused and sent again; %d lines written, in %.1f s\n",
		len(spans.traces)*spansPerTrace, spans.refused.Load(), lines.lines, took.Seconds())

	storedLines, storedSpans, err := s.found(ctx, spans.traces, lines.lines)
	drained := time.Since(begin) - took
	fmt.Fprintf(out, "%d spans and %d lines found, %.1f s after the last\n", storedSpans, storedLines, drained.Seconds())
	for _, c := range []struct{ of, what, metric string }{
		{"gateway", "spans refused", "otelcol_receiver_refused_spans"},
		{"gateway", "spans not queued", "otelcol_exporter_enqueue_failed_spans"},
		{"gateway", "spans dropped", "otelcol_exporter_send_failed_spans"},
		{"agent", "lines refused", "otelcol_receiver_refused_log_records"},
		{"agent", "lines not queued", "otelcol_exporter_enqueue_failed_log_records"},
		{"agent", "lines dropped", "otelcol_exporter_send_failed_log_records"},
		{"loki", "lines discarded", "loki_discarded_samples"},
		{"tempo", "spans discarded", "tempo_discarded_spans"},
	} {
		fmt.Fprintf(out, "%-8s %-18s %.0f\n", c.of, c.what, s.metric(ctx, c.of, c.metric))
	}
	for _, name := range []string{"gateway", "agent", "loki", "tempo"} {
		fmt.Fprintf(out, "%-8s %.2f cores, %.0f MiB at most\n", name, used[name].Seconds()/took.Seconds(), s.all[name].memory())
	}
	quantiles(out, "line to Loki", lineDelays)
	quantiles(out, "trace to Tempo", traceDelays)
	return err
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func quantiles(out io.Writer, what string, all []time.Duration) {
	if len(all) == 0 {
		return
	}
	slices.Sort(all)
	fmt.Fprintf(out, "%s: median %.2f s, p95 %.2f s, of %d\n", what, all[len(all)/2].Seconds(), all[len(all)*95/100].Seconds(), len(all))
}

// lineDelays writes a line a second and measures until Loki gives it back.
func (s *stage) lineDelays(ctx context.Context, w *writer) (delays []time.Duration) {
	for n := 0; ctx.Err() == nil; n++ {
		word := fmt.Sprintf("m%d-%d", n, time.Now().UnixNano())
		begin := time.Now()
		if w.mark(word) != nil {
			return delays
		}
		for ctx.Err() == nil {
			if got, err := s.count(ctx, `{k8s_pod_name="marker"} |= "`+word+`"`); err == nil && got > 0 {
				delays = append(delays, time.Since(begin))
				break
			}
			pause(ctx, 50*time.Millisecond)
		}
		pause(ctx, time.Second-time.Since(begin))
	}
	return delays
}

// traceDelays sends a trace a second and measures until Tempo gives it back.
func (s *stage) traceDelays(ctx context.Context, from *sender) (delays []time.Duration) {
	own := &sender{url: from.url}
	for ctx.Err() == nil {
		begin := time.Now()
		id := own.send(ctx)
		for ctx.Err() == nil {
			if n, err := s.spans(ctx, id); err == nil && n == spansPerTrace {
				delays = append(delays, time.Since(begin))
				break
			}
			pause(ctx, 50*time.Millisecond)
		}
		pause(ctx, time.Second-time.Since(begin))
	}
	return delays
}

// found waits until all is there, or nothing more comes for a minute, which is
// longer than the collector pauses between two attempts.
func (s *stage) found(ctx context.Context, traces []string, lines int) (gotLines, gotSpans int, err error) {
	missing := slices.Clone(traces)
	last := time.Now()
	for {
		before := gotLines + gotSpans
		missing = slices.DeleteFunc(missing, func(id string) bool {
			n, err := s.spans(ctx, id)
			return err == nil && n == spansPerTrace
		})
		gotSpans = (len(traces) - len(missing)) * spansPerTrace
		if n, err := s.count(ctx, `{k8s_namespace_name="bench", k8s_pod_name=~"writer.*"}`); err == nil {
			gotLines = n
		}
		switch {
		case len(missing) == 0 && gotLines == lines:
			return gotLines, gotSpans, nil
		case gotLines > lines:
			return gotLines, gotSpans, fmt.Errorf("%d lines were written and Loki has %d", lines, gotLines)
		case gotLines+gotSpans > before:
			last = time.Now()
		case time.Since(last) > time.Minute || ctx.Err() != nil:
			return gotLines, gotSpans, errors.Join(ctx.Err(), fmt.Errorf("lost: %d spans that were acknowledged, %d lines: %s", len(missing)*spansPerTrace, lines-gotLines, s.missing(ctx, lines)))
		}
		pause(ctx, 500*time.Millisecond)
	}
}

// count is how many lines Loki finds in the last hour.
func (s *stage) count(ctx context.Context, selector string) (int, error) {
	q := url.Values{"query": {"sum(count_over_time(" + selector + "[1h]))"}}
	body, err := get(ctx, fmt.Sprintf("http://127.0.0.1:%d/loki/api/v1/query?%s", s.ports["loki"], q.Encode()))
	if err != nil {
		return 0, err
	}
	var answer struct {
		Data struct {
			Result []struct{ Value [2]json.RawMessage }
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil || len(answer.Data.Result) == 0 {
		return 0, err
	}
	return strconv.Atoi(strings.Trim(string(answer.Data.Result[0].Value[1]), `"`))
}

// missing says which lines of which writer Loki does not have, as far as it gives them back.
func (s *stage) missing(ctx context.Context, lines int) string {
	const most = 10_000 // that Loki gives back at once
	if lines > 5*most {
		return "too many to look through"
	}
	have := make([]bool, lines+1)
	for i := range 5 {
		q := url.Values{"query": {fmt.Sprintf(`{k8s_pod_name="writer-%d"}`, i)}, "limit": {strconv.Itoa(most)}, "since": {"1h"}}
		body, err := get(ctx, fmt.Sprintf("http://127.0.0.1:%d/loki/api/v1/query_range?%s", s.ports["loki"], q.Encode()))
		if err != nil {
			return err.Error()
		}
		for _, m := range lineNumber.FindAllSubmatch(body, -1) {
			if n, err := strconv.Atoi(string(m[1])); err == nil && n <= lines {
				have[n] = true
			}
		}
	}
	var text strings.Builder
	for i := range 5 {
		first := 0
		for n := 1; n <= lines+5; n++ {
			switch {
			case n%5 != i:
			case n <= lines && !have[n]:
				if first == 0 {
					first = n
				}
			case first != 0:
				fmt.Fprintf(&text, "writer-%d %d to %d; ", i, first, n-5)
				first = 0
			}
		}
	}
	return text.String()
}

// lineNumber is in what the writers write, as it stands in Loki's JSON.
var lineNumber = regexp.MustCompile(`\\"n\\":(\d+),`)

// spans of a trace that Tempo has.
func (s *stage) spans(ctx context.Context, id string) (int, error) {
	body, err := get(ctx, fmt.Sprintf("http://127.0.0.1:%d/api/traces/%s", s.ports["tempo"], id))
	if err != nil {
		return 0, err
	}
	return strings.Count(string(body), `"spanId"`), nil
}
