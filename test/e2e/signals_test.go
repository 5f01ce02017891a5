package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/orrery-dev/orrery/internal/kube"
)

// proxied is the cluster's API behind `kubectl proxy`, and through it what telemetry is sent
// to and read from. Loki and Tempo ask who it is, which that proxy cannot say: they are asked by client.
type proxied struct {
	base   string
	client *kube.Client
}

var servingAt = regexp.MustCompile(`127\.0\.0\.1:\d+`)

func (e *environment) proxy(t *testing.T) proxied {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context()) // not as short as other verbs
	cmd, _ := e.command(ctx, []string{"kubectl", "proxy", "--port=0", "--disable-filter=true"})
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	at := servingAt.FindString(line)
	if err != nil || at == "" {
		t.Fatalf("kubectl proxy says %q: %v", line, err)
	}
	client, err := kube.Connect(e.state("kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return proxied{"http://" + at, client}
}

// service is the URL of a path of a service of the observability namespace.
func (p proxied) service(name, path string) string {
	return p.base + servicePath(name, path)
}

func servicePath(name, path string) string {
	return "/api/v1/namespaces/observability/services/" + name + "/proxy" + path
}

// get asks a service that wants to know who asks.
func (p proxied) get(ctx context.Context, name, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return p.client.RawGet(ctx, servicePath(name, path))
}

func (p proxied) do(ctx context.Context, method, url string, body []byte) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

// send gives the gateway a request in OTLP's JSON form; nil means that it is acknowledged.
func (p proxied) send(ctx context.Context, signal string, request any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	status, answer, err := p.do(ctx, http.MethodPost, p.service("https:otel-gateway:4318", "/v1/"+signal), body)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%d: %.300s", status, answer)
	}
	return err
}

// query asks Prometheus for an instant vector: the labels of each series, and its value
// under "".
func (p proxied) query(ctx context.Context, promql string) ([]map[string]string, error) {
	status, answer, err := p.do(ctx, http.MethodGet, p.service("https:prometheus:9090", "/api/v1/query?query="+url.QueryEscape(promql)), nil)
	if err != nil || status != http.StatusOK {
		return nil, errors.Join(err, fmt.Errorf("Prometheus: %d: %.300s", status, answer))
	}
	var v struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Value  [2]json.RawMessage
			}
		}
	}
	if err := json.Unmarshal(answer, &v); err != nil {
		return nil, err
	}
	var all []map[string]string
	for _, r := range v.Data.Result {
		if r.Metric == nil {
			r.Metric = map[string]string{}
		}
		r.Metric[""] = strings.Trim(string(r.Value[1]), `"`)
		all = append(all, r.Metric)
	}
	return all, nil
}

// number is the value of a query that gives one; 0 when it gives none.
func (p proxied) number(ctx context.Context, promql string) (float64, error) {
	all, err := p.query(ctx, promql)
	if err != nil || len(all) == 0 {
		return 0, err
	}
	return strconv.ParseFloat(all[0][""], 64)
}

// lines are the bodies of the lines that Loki finds, of up to ten days.
func (p proxied) lines(ctx context.Context, logql string) ([]string, error) {
	q := url.Values{"query": {logql}, "limit": {"10000"}, "start": {nanos(time.Now().Add(-29 * 24 * time.Hour))}, "end": {nanos(time.Now().Add(time.Hour))}}
	answer, err := p.get(ctx, "https:loki:3100", "/loki/api/v1/query_range?"+q.Encode())
	if err != nil {
		return nil, fmt.Errorf("Loki: %w: %.300s", err, answer)
	}
	var v struct {
		Data struct {
			Result []struct{ Values [][2]string }
		}
	}
	if err := json.Unmarshal(answer, &v); err != nil {
		return nil, err
	}
	var all []string
	for _, r := range v.Data.Result {
		for _, l := range r.Values {
			all = append(all, l[1])
		}
	}
	return all, nil
}

// spans is how many of a trace Tempo has.
func (p proxied) spans(ctx context.Context, id string) (int, error) {
	answer, err := p.get(ctx, "https:tempo:3200", "/api/traces/"+id)
	switch {
	case apierrors.IsNotFound(err):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("Tempo: %w: %.300s", err, answer)
	}
	return bytes.Count(answer, []byte(`"spanId"`)), nil
}

func nanos(t time.Time) string { return strconv.FormatInt(t.UnixNano(), 10) }

type object = map[string]any

func attribute(key, value string) object {
	return object{"key": key, "value": object{"stringValue": value}}
}

func resource(service string, more ...object) object {
	return object{"attributes": append([]object{attribute("service.name", service)}, more...)}
}

// logLines is OTLP with lines of one service, all at one time and a nanosecond apart.
func logLines(service string, at time.Time, lines ...string) object {
	var records []object
	for i, l := range lines {
		records = append(records, object{"timeUnixNano": nanos(at.Add(time.Duration(i))), "body": object{"stringValue": l}})
	}
	return object{"resourceLogs": []object{{"resource": resource(service), "scopeLogs": []object{{"logRecords": records}}}}}
}

// spansOf is OTLP with n spans of one trace.
func spansOf(service, id string, at time.Time, n int, more ...object) object {
	var spans []object
	for i := range n {
		spans = append(spans, object{
			"traceId": id, "spanId": fmt.Sprintf("%016x", i+1), "name": "work", "kind": 1, "attributes": more,
			"startTimeUnixNano": nanos(at), "endTimeUnixNano": nanos(at.Add(time.Millisecond)),
		})
	}
	return object{"resourceSpans": []object{{"resource": resource(service), "scopeSpans": []object{{"spans": spans}}}}}
}

// gaugeOf is OTLP with one value.
func gaugeOf(service, name string, at time.Time, value float64) object {
	return object{"resourceMetrics": []object{{"resource": resource(service), "scopeMetrics": []object{{"metrics": []object{{
		"name": name, "gauge": object{"dataPoints": []object{{"timeUnixNano": nanos(at), "asDouble": value}}},
	}}}}}}}
}
