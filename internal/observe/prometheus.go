package observe

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// Prometheus is a client of its HTTP API v1 (https://prometheus.io/docs/prometheus/latest/querying/api/).
type Prometheus struct{ service }

// NewPrometheus reaches the Service prometheus, port 9090, of [Namespace].
func NewPrometheus(api API) Prometheus {
	return Prometheus{service{api, "Prometheus", Namespace, "prometheus", 9090}}
}

// answer is the envelope of every answer.
type answer[T any] struct {
	Status string `json:"status"`
	Error  string `json:"error"`
	Data   T      `json:"data"`
}

func ask[T any](ctx context.Context, s service, path string, query url.Values) (T, error) {
	var a answer[T]
	if err := s.get(ctx, path, query, &a); err != nil {
		return a.Data, err
	}
	if a.Status != "success" {
		return a.Data, fmt.Errorf("%s: %w: %s", s.name, ErrQuery, a.Error)
	}
	return a.Data, nil
}

// Query evaluates an expression at one time; the zero time means now.
func (p Prometheus) Query(ctx context.Context, promql string, at time.Time) ([]Series, error) {
	q := url.Values{"query": {promql}}
	if !at.IsZero() {
		q.Set("time", seconds(at))
	}
	data, err := ask[result](ctx, p.service, "/api/v1/query", q)
	if err != nil {
		return nil, err
	}
	return p.numbers(data)
}

// QueryRange evaluates an expression at every step of a range.
func (p Prometheus) QueryRange(ctx context.Context, promql string, r Range) ([]Series, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	data, err := ask[result](ctx, p.service, "/api/v1/query_range", url.Values{
		"query": {promql}, "start": {seconds(r.Start)}, "end": {seconds(r.End)},
		"step": {strconv.FormatFloat(r.step().Seconds(), 'f', 3, 64)},
	})
	if err != nil {
		return nil, err
	}
	return p.numbers(data)
}

func (p Prometheus) numbers(r result) ([]Series, error) {
	s, err := r.series()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	return s, nil
}

// LabelValues are the values that a label has in the series that match, over the last
// hours; an empty match means all series.
func (p Prometheus) LabelValues(ctx context.Context, label, match string) ([]string, error) {
	q := url.Values{"start": {seconds(time.Now().Add(-3 * time.Hour))}}
	if match != "" {
		q.Set("match[]", match)
	}
	return ask[[]string](ctx, p.service, "/api/v1/label/"+url.PathEscape(label)+"/values", q)
}

// Target is something that is scraped.
type Target struct {
	// Labels after relabelling: job, instance, namespace, pod, …
	Labels Labels
	// Pool is the scrape job that it belongs to, such as "serviceMonitor/messaging/nats/0".
	Pool string
	URL  string
	// Up is whether the last scrape succeeded. Unknown (not scraped yet) is not up.
	Up bool
	// Unknown is a target that was not scraped yet.
	Unknown bool
	// Error of the last scrape.
	Error string
	Last  time.Time
}

// Targets are all that are scraped now, by pool and URL. Those that relabelling drops are
// not among them.
func (p Prometheus) Targets(ctx context.Context) ([]Target, error) {
	data, err := ask[struct {
		Active []struct {
			Labels Labels    `json:"labels"`
			Pool   string    `json:"scrapePool"`
			URL    string    `json:"scrapeUrl"`
			Health string    `json:"health"`
			Error  string    `json:"lastError"`
			Last   time.Time `json:"lastScrape"`
		} `json:"activeTargets"`
	}](ctx, p.service, "/api/v1/targets", url.Values{"state": {"active"}})
	if err != nil {
		return nil, err
	}
	targets := make([]Target, 0, len(data.Active))
	for _, t := range data.Active {
		targets = append(targets, Target{t.Labels, t.Pool, t.URL, t.Health == "up", t.Health == "unknown", t.Error, t.Last})
	}
	slices.SortFunc(targets, func(a, b Target) int { return cmp.Or(cmp.Compare(a.Pool, b.Pool), cmp.Compare(a.URL, b.URL)) })
	return targets, nil
}

// RuleGroup is a group of rules that are evaluated together.
type RuleGroup struct {
	Name  string `json:"name"`
	File  string `json:"file"`
	Rules []Rule `json:"rules"`
}

// Rule records a series or raises an alert.
type Rule struct {
	Name        string  `json:"name"`
	Type        string  `json:"type"`   // alerting | recording
	Health      string  `json:"health"` // ok | err | unknown
	Error       string  `json:"lastError"`
	Query       string  `json:"query"`
	State       string  `json:"state"` // of an alerting rule: inactive | pending | firing
	Labels      Labels  `json:"labels"`
	Annotations Labels  `json:"annotations"`
	Alerts      []Alert `json:"alerts"`
}

// Rules are all that are loaded.
func (p Prometheus) Rules(ctx context.Context) ([]RuleGroup, error) {
	data, err := ask[struct {
		Groups []RuleGroup `json:"groups"`
	}](ctx, p.service, "/api/v1/rules", nil)
	return data.Groups, err
}

// Alert is one that is pending or firing.
type Alert struct {
	Labels      Labels    `json:"labels"`
	Annotations Labels    `json:"annotations"`
	State       string    `json:"state"` // pending | firing
	Since       time.Time `json:"activeAt"`
}

// Name of the alert.
func (a Alert) Name() string { return a.Labels["alertname"] }

// Alerts are those that are pending or firing now.
func (p Prometheus) Alerts(ctx context.Context) ([]Alert, error) {
	data, err := ask[struct {
		Alerts []Alert `json:"alerts"`
	}](ctx, p.service, "/api/v1/alerts", nil)
	return data.Alerts, err
}

// Exemplar is one measured value of a series together with where it was seen.
type Exemplar struct {
	Series Labels
	Labels Labels // trace_id among them
	Point
}

// TraceID is the trace that the value comes from, "" when none was noted.
func (e Exemplar) TraceID() string {
	return cmp.Or(e.Labels["trace_id"], e.Labels["traceID"], e.Labels["traceId"])
}

// Exemplars of the series in an expression, oldest first.
func (p Prometheus) Exemplars(ctx context.Context, promql string, r Range) ([]Exemplar, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	data, err := ask[[]struct {
		Series    Labels `json:"seriesLabels"`
		Exemplars []struct {
			Labels Labels  `json:"labels"`
			Value  string  `json:"value"`
			Time   float64 `json:"timestamp"`
		} `json:"exemplars"`
	}](ctx, p.service, "/api/v1/query_exemplars", url.Values{"query": {promql}, "start": {seconds(r.Start)}, "end": {seconds(r.End)}})
	if err != nil {
		return nil, err
	}
	var out []Exemplar
	for _, s := range data {
		for _, e := range s.Exemplars {
			v, err := strconv.ParseFloat(e.Value, 64)
			if err != nil {
				return nil, fmt.Errorf("%s: value of an exemplar: %w", p.name, err)
			}
			out = append(out, Exemplar{s.Series, e.Labels, Point{fromSeconds(e.Time), v}})
		}
	}
	slices.SortStableFunc(out, func(a, b Exemplar) int { return a.Time.Compare(b.Time) })
	return out, nil
}

// Alertmanager is a client of its HTTP API v2.
type Alertmanager struct{ service }

// NewAlertmanager reaches the Service alertmanager, port 9093, of [Namespace].
func NewAlertmanager(api API) Alertmanager {
	return Alertmanager{service{api, "Alertmanager", Namespace, "alertmanager", 9093}}
}

// Notice is an alert as Alertmanager has it.
type Notice struct {
	Labels      Labels    `json:"labels"`
	Annotations Labels    `json:"annotations"`
	Since       time.Time `json:"startsAt"`
	Ends        time.Time `json:"endsAt"`
	Fingerprint string    `json:"fingerprint"`
	Status      struct {
		State string `json:"state"` // unprocessed | active | suppressed
	} `json:"status"`
	Receivers []struct {
		Name string `json:"name"`
	} `json:"receivers"`
}

// Alerts are those that it holds now.
func (a Alertmanager) Alerts(ctx context.Context) ([]Notice, error) {
	var out []Notice
	err := a.get(ctx, "/api/v2/alerts", nil, &out)
	return out, err
}
