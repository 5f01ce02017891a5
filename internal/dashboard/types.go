package dashboard

import "time"

// Kind of a panel.
type Kind string

const (
	TimeSeries Kind = "timeseries" // lines over time
	Stat       Kind = "stat"       // one number for each series, now
	Bar        Kind = "bar"        // horizontal bars, now
	Table      Kind = "table"      // a row for each set of labels, a column for each query, now
	Logs       Kind = "logs"       // lines from Loki
	Trace      Kind = "trace"      // traces that a TraceQL query finds, newest first
	Topology   Kind = "topology"   // zones, nodes and pods; in Grafana one tile for each series
)

// Source answers a query.
type Source string

const (
	Prometheus Source = "prometheus"
	Loki       Source = "loki"
	Tempo      Source = "tempo"
)

// Unit of a number; the empty unit is a plain number.
type Unit string

const (
	Count          Unit = ""
	Ratio          Unit = "ratio" // 0 to 1, shown as per cent
	Bytes          Unit = "bytes"
	BytesPerSecond Unit = "bytes/s"
	Seconds        Unit = "seconds"
	PerSecond      Unit = "1/s"
	Cores          Unit = "cores"
	Timestamp      Unit = "timestamp" // seconds since 1970
)

// State that a threshold stands for.
type State string

const (
	OK       State = "ok"
	Warning  State = "warning"
	Critical State = "critical"
	Neutral  State = "neutral"
)

// Dashboard is one page.
type Dashboard struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"` // Dashboard
	// Name is that of the file, and of the page's address.
	Name        string `json:"name"`
	Title       string `json:"title"`
	Description string `json:"description"`
	// Order among the dashboards; those without one come last, by name.
	Order int `json:"order,omitempty"`
	// Range that is shown at first, as a Go duration. Default 30m.
	Range     string     `json:"range,omitempty"`
	Variables []Variable `json:"variables,omitempty"`
	Rows      []Row      `json:"rows"`

	// Component whose folder it stands in, and the file, both set by the loader.
	Component string `json:"-"`
	File      string `json:"-"`
}

// Variable is a choice at the top of the page; $NAME in a query stands for it. Queries use
// it in regular-expression matchers (=~), because "all" is one.
type Variable struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	// Label whose values are offered, of the series or streams that Match selects.
	Label string `json:"label,omitempty"`
	Match string `json:"match,omitempty"`
	// Source of the values: prometheus (default) or loki.
	Source Source `json:"source,omitempty"`
	// Text lets the person type anything; then there is no Label.
	Text bool `json:"text,omitempty"`
	// Default value; "" is all.
	Default string `json:"default,omitempty"`
	// All is the regular expression of all. Default ".*". Loki wants one matcher that does
	// not match nothing: ".+" for a label that every stream has.
	All string `json:"all,omitempty"`
}

// Row groups panels under a title.
type Row struct {
	Title  string  `json:"title"`
	Panels []Panel `json:"panels"`
}

// Panel shows one thing.
type Panel struct {
	Title string `json:"title"`
	// Description says in a sentence what to make of it.
	Description string `json:"description,omitempty"`
	Kind        Kind   `json:"kind"`
	// Width in twelfths of the page. Default: stat 3, table, logs, trace and topology 12, others 6.
	Width int `json:"width,omitempty"`
	// Height in lines of about 40 pixels. Default by kind.
	Height  int     `json:"height,omitempty"`
	Unit    Unit    `json:"unit,omitempty"`
	Queries []Query `json:"queries"`
	// Thresholds colour a number from a value on; below the first it is neutral.
	Thresholds []Threshold `json:"thresholds,omitempty"`
	// Min and Max of the scale. Default: from zero, or from the least value if that is
	// negative, to what the data needs.
	Min *float64 `json:"min,omitempty"`
	Max *float64 `json:"max,omitempty"`
	// Stack puts series on top of each other.
	Stack bool `json:"stack,omitempty"`
	// Labels are the first columns of a table.
	Labels []string `json:"labels,omitempty"`
	// Values name numbers: "1": up.
	Values map[string]string `json:"values,omitempty"`
	// EmptyWhenHealthy: no data is good news. Anywhere else it is a mistake that a check finds.
	EmptyWhenHealthy bool `json:"emptyWhenHealthy,omitempty"`
	// Empty is what the panel says then.
	Empty string `json:"empty,omitempty"`
}

// Query is a question to one source.
type Query struct {
	// Expr is PromQL, LogQL or TraceQL. $__rate_interval stands for a span of a few scrapes,
	// $__range for what is shown, $NAME for a variable.
	Expr string `json:"expr"`
	// Legend names a series; {{label}} stands for a label's value. Default: its labels.
	Legend string `json:"legend,omitempty"`
	// Source: default loki for logs, tempo for trace, prometheus for the rest.
	Source Source `json:"source,omitempty"`
	// Unit of a table's column, if not the panel's.
	Unit Unit `json:"unit,omitempty"`
	// Exemplars are drawn on the lines and lead to their traces.
	Exemplars bool `json:"exemplars,omitempty"`
}

// Threshold colours numbers from a value on.
type Threshold struct {
	From  float64 `json:"from"`
	State State   `json:"state"`
}

// Span is the range that is shown at first.
func (d Dashboard) Span() time.Duration {
	if v, err := time.ParseDuration(d.Range); err == nil && v > 0 {
		return v
	}
	return 30 * time.Minute
}

// Judge is the state that a value has.
func (p Panel) Judge(v float64) State {
	state := Neutral
	for _, t := range p.Thresholds {
		if v >= t.From {
			state = t.State
		}
	}
	return state
}

// WidthOr is the width in twelfths.
func (p Panel) WidthOr() int {
	switch {
	case p.Width > 0:
		return p.Width
	case p.Kind == Stat:
		return 3
	case p.Kind == TimeSeries, p.Kind == Bar:
		return 6
	}
	return 12
}

// HeightOr is the height in lines.
func (p Panel) HeightOr() int {
	switch {
	case p.Height > 0:
		return p.Height
	case p.Kind == Stat:
		return 3
	case p.Kind == Logs, p.Kind == Topology:
		return 12
	}
	return 6
}

// SourceOf a query within a panel.
func (p Panel) SourceOf(q Query) Source {
	switch {
	case q.Source != "":
		return q.Source
	case p.Kind == Logs:
		return Loki
	case p.Kind == Trace:
		return Tempo
	}
	return Prometheus
}
