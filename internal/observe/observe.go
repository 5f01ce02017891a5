package observe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Namespace in which the services stand.
const Namespace = "observability"

// API is the part of *kube.Client that is needed: a GET of a path of the API server. The
// error of an answer other than 2xx carries the API server's status, and the body comes
// with it.
type API interface {
	RawGet(ctx context.Context, path string) ([]byte, error)
}

// ErrAbsent is wrapped by the error of a service that does not exist, has no ready pod, or
// cannot be reached. What to do about it is in the message.
var ErrAbsent = errors.New("not there")

// ErrNotFound is wrapped when the service answers and has no such thing, such as a trace.
var ErrNotFound = errors.New("not found")

// ErrQuery is wrapped when the service refuses the query itself: a syntax error, a limit.
var ErrQuery = errors.New("query refused")

// service is one HTTP service of the cluster.
type service struct {
	api       API
	name      string // for people: "Prometheus"
	namespace string
	host      string // of the Service object
	port      int
}

func (s service) get(ctx context.Context, path string, query url.Values, into any) error {
	full := fmt.Sprintf("/api/v1/namespaces/%s/services/https:%s:%d/proxy%s", s.namespace, s.host, s.port, path)
	if len(query) > 0 {
		full += "?" + query.Encode()
	}
	body, err := s.api.RawGet(ctx, full)
	if err != nil {
		return s.explain(ctx, body, err)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%s: answer to %s is not what was expected: %w", s.name, path, err)
	}
	return nil
}

// explain tells three failures apart: the service is not there, it has no such thing, it
// does not like the question.
func (s service) explain(ctx context.Context, body []byte, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", s.name, context.Cause(ctx))
	}
	var status metav1.Status
	fromAPIServer := json.Unmarshal(body, &status) == nil && status.Kind == "Status"
	code := 0
	var known apierrors.APIStatus
	if errors.As(err, &known) {
		code = int(known.Status().Code)
	}
	switch {
	case fromAPIServer && code == 404:
		return fmt.Errorf("%s is %w: there is no service %s in namespace %s"+
			" (is its component deployed? see 'orrery status')", s.name, ErrAbsent, s.host, s.namespace)
	case fromAPIServer && (code == 503 || code == 502 || code == 504):
		return fmt.Errorf("%s is %w: service %s/%s has no pod that answers: %s", s.name, ErrAbsent, s.namespace, s.host, status.Message)
	case code == 0, fromAPIServer:
		return fmt.Errorf("%s: %w", s.name, err)
	case code == 404:
		return fmt.Errorf("%s: %w", s.name, ErrNotFound)
	case code/100 == 4:
		return fmt.Errorf("%s: %w: %s", s.name, ErrQuery, reason(body))
	default:
		return fmt.Errorf("%s answers with status %d: %s", s.name, code, reason(body))
	}
}

// reason is the message in the body of a failed request: Prometheus wraps it in JSON,
// Loki and Tempo write plain text.
func reason(body []byte) string {
	var wrapped struct {
		Error   string `json:"error"`
		Message string `json:"message"`
	}
	text := string(body)
	if json.Unmarshal(body, &wrapped) == nil && wrapped.Error+wrapped.Message != "" {
		text = wrapped.Error + wrapped.Message
	}
	text = strings.TrimSpace(text)
	if r := []rune(text); len(r) > 500 {
		text = string(r[:500]) + "…"
	}
	return text
}

// Labels name a series, a stream or a span's attributes.
type Labels map[string]string

// String is the form that Prometheus and Loki write: name{a="b", c="d"}.
func (l Labels) String() string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(l)) {
		if k != "__name__" {
			parts = append(parts, k+"="+strconv.Quote(l[k]))
		}
	}
	if name := l["__name__"]; name != "" && len(parts) == 0 {
		return name
	}
	return l["__name__"] + "{" + strings.Join(parts, ", ") + "}"
}

// Point is a number at a time; NaN and infinities are possible.
type Point struct {
	Time  time.Time
	Value float64
}

// Series is what one set of labels was over time, oldest first. An instant query gives
// one point.
type Series struct {
	Labels Labels
	Points []Point
}

// Last is the newest point. False when there is none.
func (s Series) Last() (Point, bool) {
	if len(s.Points) == 0 {
		return Point{}, false
	}
	return s.Points[len(s.Points)-1], true
}

// Range is a span of time to look at.
type Range struct {
	Start, End time.Time
	// Step between the points of a number. Zero means a hundred points, and at least a
	// second between them.
	Step time.Duration
}

// Last is the range that ends now.
func Last(d time.Duration) Range {
	now := time.Now()
	return Range{Start: now.Add(-d), End: now}
}

func (r Range) step() time.Duration {
	if r.Step > 0 {
		return r.Step
	}
	return max(time.Second, (r.End.Sub(r.Start) / 100).Truncate(time.Second))
}

func (r Range) check() error {
	if !r.End.After(r.Start) {
		return fmt.Errorf("%w: the range ends (%s) before it begins (%s)", ErrQuery, r.End.Format(time.RFC3339), r.Start.Format(time.RFC3339))
	}
	return nil
}

// pair is [seconds, "value"], the way Prometheus and Loki write a point.
type pair Point

func (p *pair) UnmarshalJSON(data []byte) error {
	var raw [2]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return fmt.Errorf("point: %w", err)
	}
	var at float64
	var text string
	if err := json.Unmarshal(raw[0], &at); err != nil {
		return fmt.Errorf("time of a point: %w", err)
	}
	if err := json.Unmarshal(raw[1], &text); err != nil {
		return fmt.Errorf("value of a point: %w", err)
	}
	value, err := strconv.ParseFloat(text, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return fmt.Errorf("value of a point: %w", err)
	}
	*p = pair{fromSeconds(at), value}
	return nil
}

// fromSeconds keeps milliseconds, which is what the servers store.
func fromSeconds(s float64) time.Time { return time.UnixMilli(int64(s * 1000)).UTC() }

func seconds(t time.Time) string {
	return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64)
}

// result is the data of a query to Prometheus, and of a query for numbers to Loki.
type result struct {
	Type   string          `json:"resultType"`
	Result json.RawMessage `json:"result"`
}

func (r result) series() ([]Series, error) {
	switch r.Type {
	case "vector":
		var items []struct {
			Metric Labels `json:"metric"`
			Value  *pair  `json:"value"` // absent in a native histogram
		}
		if err := json.Unmarshal(r.Result, &items); err != nil {
			return nil, fmt.Errorf("vector: %w", err)
		}
		var out []Series
		for _, i := range items {
			if i.Value != nil {
				out = append(out, Series{i.Metric, []Point{Point(*i.Value)}})
			}
		}
		return out, nil
	case "matrix":
		var items []struct {
			Metric Labels `json:"metric"`
			Values []pair `json:"values"`
		}
		if err := json.Unmarshal(r.Result, &items); err != nil {
			return nil, fmt.Errorf("matrix: %w", err)
		}
		var out []Series
		for _, i := range items {
			if len(i.Values) == 0 {
				continue
			}
			s := Series{Labels: i.Metric, Points: make([]Point, len(i.Values))}
			for n, v := range i.Values {
				s.Points[n] = Point(v)
			}
			out = append(out, s)
		}
		return out, nil
	case "scalar":
		var v pair
		if err := json.Unmarshal(r.Result, &v); err != nil {
			return nil, fmt.Errorf("scalar: %w", err)
		}
		return []Series{{Labels{}, []Point{Point(v)}}}, nil
	}
	return nil, fmt.Errorf("result of type %q instead of numbers", r.Type)
}
