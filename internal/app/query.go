package app

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/dashboard"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/observe"
	"github.com/orrery-dev/orrery/internal/ui"
)

// querySeries is what `query -o json` prints for each series; its form is a contract.
type querySeries struct {
	Labels observe.Labels `json:"labels"`
	Points []queryPoint   `json:"points"`
}

// queryPoint has the value as text, as Prometheus writes it: JSON knows no NaN.
type queryPoint struct {
	Time  time.Time `json:"time"`
	Value string    `json:"value"`
}

func newQuery(o *options) *cobra.Command {
	var over span
	c := &cobra.Command{
		Use:   "query PROMQL",
		Short: "Ask Prometheus, such as 'sum by (node) (kube_pod_info)'",
		Long: `Ask the environment's Prometheus and print a row for each series: its value now, or with
--range the last, least and greatest values and a small picture of the way there.`,
		Example: `  orrery query up
  orrery query 'sum by (namespace) (rate(container_cpu_usage_seconds_total[2m]))' --range 1h
  orrery query 'up == 0' -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return runQuery(c.Context(), o, args[0], over)
		},
	}
	spanFlag(c, &over, "range", "how far to look back, such as 15m, 2h or 7d (default: only now)")
	return c
}

func runQuery(ctx context.Context, o *options, promql string, over span) error {
	_, client, err := o.observed(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	prometheus := observe.NewPrometheus(client)
	var series []observe.Series
	if over > 0 {
		series, err = prometheus.QueryRange(ctx, promql, over.last())
	} else {
		series, err = prometheus.Query(ctx, promql, time.Time{})
	}
	if err != nil {
		return refusedQuery(err)
	}
	if o.json() {
		return printJSON(o.out, jsonSeries(series))
	}
	if len(series) == 0 {
		_, err := fmt.Fprintln(o.err, "no data")
		return err
	}
	header, rows := seriesTable(series, over > 0)
	return ui.Table(o.out, header, rows)
}

// refusedQuery makes a query that a service does not understand the person's mistake.
func refusedQuery(err error) error {
	if isQueryError(err) {
		return failure.Usage{Err: err}
	}
	return err
}

func jsonSeries(series []observe.Series) []querySeries {
	out := []querySeries{}
	for _, s := range series {
		q := querySeries{Labels: s.Labels, Points: []queryPoint{}}
		for _, p := range s.Points {
			q.Points = append(q.Points, queryPoint{p.Time, strconv.FormatFloat(p.Value, 'g', -1, 64)})
		}
		out = append(out, q)
	}
	return out
}

// seriesTable has a column for each label that tells the series apart; those that all
// have in common with the same value are left out, unless there is but one series.
func seriesTable(series []observe.Series, ranged bool) (header []string, rows [][]string) {
	values := map[string]map[string]bool{}
	for _, s := range series {
		for k := range s.Labels {
			if values[k] == nil {
				values[k] = map[string]bool{}
				for _, other := range series {
					values[k][other.Labels[k]] = true
				}
			}
		}
	}
	var labels []string
	for _, k := range slices.Sorted(maps.Keys(values)) {
		if len(values[k]) > 1 || len(series) == 1 {
			labels = append(labels, k)
		}
	}
	for _, l := range labels {
		header = append(header, cmp.Or(map[string]string{"__name__": "METRIC"}[l], l))
	}
	if ranged {
		header = append(header, "LAST", "MIN", "MAX", "OVER TIME")
	} else {
		header = append(header, "VALUE")
	}
	for _, s := range series {
		var row []string
		for _, l := range labels {
			row = append(row, s.Labels[l])
		}
		last, _ := s.Last()
		row = append(row, number(last.Value))
		if ranged {
			least, greatest, all := math.Inf(1), math.Inf(-1), []float64{}
			for _, p := range s.Points {
				all = append(all, p.Value)
				if !math.IsNaN(p.Value) {
					least, greatest = min(least, p.Value), max(greatest, p.Value)
				}
			}
			row = append(row, number(least), number(greatest), dashboard.Sparkline(dashboard.Thin(all, 32)))
		}
		rows = append(rows, row)
	}
	slices.SortStableFunc(rows, slices.Compare)
	return header, rows
}

// number is a value in full: what is printed here may be copied.
func number(v float64) string {
	if v == math.Trunc(v) && math.Abs(v) < 1e15 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 6, 64)
}
