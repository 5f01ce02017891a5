package smoke

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/dashboard"
	"github.com/orrery-dev/orrery/internal/observe"
)

// dashboards: every query of every dashboard has data in the running platform, so that
// nobody meets an empty panel on the day it is needed. Panels that are empty when all is
// well are asked too: their queries must be good. A query that is refused will not become
// better by waiting; one without data may, because what was just deployed is not scraped
// yet. A rate needs two scrapes; while there is no history at all, one is taken for an answer.
func dashboards(ctx context.Context, env Env) check.Result {
	if len(env.Dashboards) == 0 {
		return check.Skip("no component of this environment has a dashboard")
	}
	var uses []dashboard.Use
	for _, d := range env.Dashboards {
		uses = append(uses, d.Queries()...)
	}
	ask := asker{observe.NewPrometheus(env.Client), observe.NewLoki(env.Client), observe.NewTempo(env.Client)}
	var mu sync.Mutex
	var refused, empty, absent []string
	calm, early := 0, 0
	history, err := ask.prometheus.Query(ctx, "count(up offset 3m)", time.Time{})
	if err != nil {
		return check.Wait("%v", err)
	}
	var g errgroup.Group
	g.SetLimit(8)
	for _, u := range uses {
		g.Go(func() error {
			data, err := ask.data(ctx, u)
			first := false
			if once := firstScrape(u.Expr); err == nil && !data && len(history) == 0 && u.Source == dashboard.Prometheus && once != u.Expr {
				again := u
				again.Expr = once
				first, err = ask.data(ctx, again)
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, observe.ErrQuery):
				refused = append(refused, fmt.Sprintf("%s: %v: %s", u.Where(), err, oneLine(u.Expr)))
			case err != nil:
				absent = append(absent, fmt.Sprintf("%s: %v", u.Where(), err))
			case first:
				early++
			case !data && u.Panel.EmptyWhenHealthy:
				calm++
			case !data:
				empty = append(empty, fmt.Sprintf("%s has no data: %s", u.Where(), oneLine(u.Expr)))
			}
			return nil
		})
	}
	_ = g.Wait()
	slices.Sort(refused)
	slices.Sort(empty)
	slices.Sort(absent)
	switch {
	case len(refused) > 0:
		return check.Fail(errors.New(strings.Join(refused, "; ")))
	case len(absent) > 0:
		return check.Wait("%s", first(absent))
	case len(empty) > 0:
		return check.Wait("%s", first(empty))
	}
	text := fmt.Sprintf("%d queries of %d dashboards have data, %d of them are empty because all is well", len(uses), len(env.Dashboards), calm)
	if early > 0 {
		text += fmt.Sprintf("; %d are rates, judged by the first scrape", early)
	}
	return check.OK("%s", text)
}

var counters = regexp.MustCompile(`\b(?:rate|increase|irate)\(`)

// firstScrape asks for what is counted instead of how fast: one scrape is enough for it.
func firstScrape(promql string) string { return counters.ReplaceAllString(promql, "last_over_time(") }

// first is the head of a list of findings that can be very long.
func first(findings []string) string {
	const shown = 5
	if len(findings) <= shown {
		return strings.Join(findings, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(findings[:shown], "; "), len(findings)-shown)
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

type asker struct {
	prometheus observe.Prometheus
	loki       observe.Loki
	tempo      observe.Tempo
}

// data says whether a query has any. A number that is none (0/0) draws nothing.
func (a asker) data(ctx context.Context, u dashboard.Use) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	recent := observe.Last(30 * time.Minute)
	var series []observe.Series
	var err error
	switch u.Source {
	case dashboard.Tempo:
		found, err := a.tempo.Search(ctx, u.Expr, recent, 1)
		return len(found) > 0, err
	case dashboard.Loki:
		if !observe.IsNumeric(u.Expr) {
			lines, err := a.loki.Query(ctx, u.Expr, recent, 1, observe.NewestFirst)
			return len(lines) > 0, err
		}
		series, err = a.loki.QueryRange(ctx, u.Expr, observe.Last(5*time.Minute))
	default:
		series, err = a.prometheus.Query(ctx, u.Expr, time.Time{})
	}
	return slices.ContainsFunc(series, func(s observe.Series) bool {
		return slices.ContainsFunc(s.Points, func(p observe.Point) bool { return !math.IsNaN(p.Value) })
	}), err
}
