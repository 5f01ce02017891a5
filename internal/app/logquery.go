package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/observe"
)

// logQuery is what `logs --query` was asked.
type logQuery struct {
	logql  string
	since  span
	limit  int
	follow bool
}

// logLine is what `logs --query -o json` prints, one a line; its form is a contract.
type logLine struct {
	Time   time.Time      `json:"time"`
	Line   string         `json:"line"`
	Labels observe.Labels `json:"labels"`
}

func isQueryError(err error) bool { return errors.Is(err, observe.ErrQuery) }

func runLogQuery(ctx context.Context, o *options, q logQuery) error {
	switch {
	case strings.TrimSpace(q.logql) == "":
		return failure.Usagef("--query is empty; to see everything: --query '{service_name=~\".+\"}'")
	case observe.IsNumeric(q.logql):
		return failure.Usagef("--query must select lines and so begin with {, such as '{service_name=\"pulse\"}'; got %q", q.logql)
	case q.limit < 1 || q.limit > 5000:
		return failure.Usagef("--limit must be from 1 to 5000, got %d", q.limit)
	}
	_, client, err := o.observed(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	show := func(l observe.Line) error { return printLine(o.out, l) }
	if o.json() {
		show = func(l observe.Line) error { return printJSON(o.out, logLine{l.Time, l.Text, l.Labels}) }
	}
	t := lineTail{ask: observe.NewLoki(client).Query, logql: q.logql, show: show}
	err = t.first(ctx, q.since.last(), q.limit)
	if err != nil {
		return refusedQuery(err)
	}
	if !q.follow {
		if t.shown == 0 && !o.json() {
			fmt.Fprintln(o.err, "no lines")
		}
		return nil
	}
	err = t.follow(ctx, time.Second, func(err error) { fmt.Fprintln(o.err, "orrery: "+err.Error()+"; trying again") })
	if ctx.Err() != nil {
		return nil // Ctrl-C is how a person ends -F
	}
	return err
}

// lineTail shows lines once each, and goes on.
type lineTail struct {
	ask   func(context.Context, string, observe.Range, int, observe.Order) ([]observe.Line, error)
	logql string
	show  func(observe.Line) error
	shown int
	since time.Time
	seen  map[string]time.Time
}

// late is how long after its own time a line may still arrive: collectors send in batches.
const late = 15 * time.Second

func (t *lineTail) first(ctx context.Context, r observe.Range, limit int) error {
	t.since, t.seen = r.End, map[string]time.Time{}
	lines, err := t.ask(ctx, t.logql, r, limit, observe.NewestFirst)
	if err != nil {
		return err
	}
	for i := len(lines) - 1; i >= 0; i-- {
		if err := t.once(lines[i]); err != nil {
			return err
		}
	}
	return nil
}

// follow asks for what is new every interval until ctx ends. A service that is away for a
// while is told once and asked again.
func (t *lineTail) follow(ctx context.Context, interval time.Duration, trouble func(error)) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	said := false
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		now := time.Now()
		lines, err := t.ask(ctx, t.logql, observe.Range{Start: t.since.Add(-late), End: now.Add(time.Second)}, 5000, observe.OldestFirst)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case isQueryError(err):
			return refusedQuery(err)
		case err != nil:
			if !said {
				trouble(err)
				said = true
			}
			continue
		}
		said = false
		for _, l := range lines {
			if err := t.once(l); err != nil {
				return err
			}
		}
		t.since = now
		for key, at := range t.seen {
			if now.Sub(at) > 4*late {
				delete(t.seen, key)
			}
		}
	}
}

func (t *lineTail) once(l observe.Line) error {
	key := l.Time.Format(time.RFC3339Nano) + l.Labels.String() + l.Text
	if _, twice := t.seen[key]; twice {
		return nil
	}
	t.seen[key] = l.Time
	t.shown++
	return t.show(l)
}

// printLine writes time, where the line comes from, and the line.
func printLine(w io.Writer, l observe.Line) error {
	_, err := fmt.Fprintf(w, "%s %s  %s\n", l.Time.Local().Format("15:04:05.000"), lineOrigin(l.Labels), strings.TrimRight(l.Text, "\n"))
	return err
}

// lineOrigin is namespace/pod under the names that collectors give them.
func lineOrigin(l observe.Labels) string {
	namespace := cmp.Or(l["k8s_namespace_name"], l["namespace"])
	pod := cmp.Or(l["k8s_pod_name"], l["pod"], l["service_name"], l["job"])
	switch {
	case pod == "":
		return l.String()
	case namespace == "":
		return pod
	}
	return namespace + "/" + pod
}
