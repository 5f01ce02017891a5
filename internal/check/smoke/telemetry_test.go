package smoke

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orrery-dev/orrery/internal/authority"
	"github.com/orrery-dev/orrery/internal/check"
)

// telemetry is a cluster with a gateway, and with Loki, Tempo and Prometheus behind it that
// answer from what pods printed and what was sent.
type telemetry struct {
	*fakeAPI
	gateway *httptest.Server
	// authority that signed for the gateway, and that is in the cluster.
	authority authority.Pair
	refuse    int    // status of the gateway's answers
	answer    string // and their body
	busy      int    // so many requests are refused before
	spans     []map[string]any
	value     float64
	run       string
	// What is wrong.
	absent   string // a service that is not there
	deaf     bool   // nothing sent or printed arrives
	twice    bool
	label    map[string]string // of Loki's line, instead of the right ones
	lost     string            // name of a span that Tempo has lost
	orphan   string            // name of a span that Tempo has without its parent
	another  float64           // added to what Prometheus has
	job      string
	unsought bool // a search finds nothing
	late     int  // so many lines are in Loki 20 s after they were written
}

func newTelemetry(t *testing.T) (*telemetry, Env) {
	f, env := newFake(t)
	c := &telemetry{fakeAPI: f, refuse: http.StatusOK, answer: "{}", job: "smoke"}
	c.gateway = httptest.NewUnstartedServer(c)
	c.authority = newAuthority(t)
	c.gateway.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{serving(t, c.authority)}}
	c.gateway.StartTLS()
	t.Cleanup(c.gateway.Close)
	f.put(map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": gatewayTLSSecret, "namespace": gatewayNamespace},
		"data": map[string]any{"ca.crt": base64.StdEncoding.EncodeToString(c.authority.Certificate)},
	})
	f.put(map[string]any{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": map[string]any{"name": "otel-gateway-0", "namespace": gatewayNamespace, "labels": map[string]any{"app.kubernetes.io/name": "otel-gateway"}},
		"status":   map[string]any{"conditions": []any{map[string]any{"type": "Ready", "status": "True"}}},
	})
	env.Client, env.Components = c, []string{"loki", "tempo", "prometheus", "otel-collector"}
	return c, env
}

func newAuthority(t *testing.T) authority.Pair {
	t.Helper()
	a, err := authority.New("test", []string{"svc"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// serving is a certificate of the gateway.
func serving(t *testing.T, signer authority.Pair) tls.Certificate {
	t.Helper()
	issued, err := signer.Issue(authority.Request{
		DNSNames: []string{gatewayName}, Lifetime: time.Hour, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(issued.Certificate, issued.Key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// TestGatewaySigned: who is not signed by the environment's authority is sent nothing.
func TestGatewaySigned(t *testing.T) {
	c, env := newTelemetry(t)
	if err := sendOTLP(t.Context(), env, "traces", map[string]any{}); err != nil {
		t.Fatal(err)
	}
	other, env := newTelemetry(t)
	other.gateway.Config.ErrorLog = log.New(io.Discard, "", 0)
	other.gateway.TLS.Certificates = []tls.Certificate{serving(t, newAuthority(t))}
	other.gateway.TLS.GetCertificate = nil
	err := sendOTLP(t.Context(), env, "traces", map[string]any{})
	if err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("signed by another authority: %v", err)
	}
	delete(c.objects, "Secret/"+gatewayNamespace+"/"+gatewayTLSSecret)
	env.Client = c
	if err := sendOTLP(t.Context(), env, "traces", map[string]any{}); err == nil || !strings.Contains(err.Error(), gatewayTLSSecret) {
		t.Errorf("without an authority: %v", err)
	}
}

func (c *telemetry) PortForward(context.Context, string, string, int) (string, func(), error) {
	return c.gateway.Listener.Addr().String(), func() {}, nil
}

// ServeHTTP is the gateway.
func (c *telemetry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy > 0 {
		c.busy--
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(c.refuse)
	fmt.Fprint(w, c.answer)
	var sent struct {
		ResourceSpans []struct {
			Resource   any
			ScopeSpans []struct{ Spans []map[string]any }
		}
		ResourceMetrics []struct {
			ScopeMetrics []struct {
				Metrics []struct {
					Gauge struct {
						DataPoints []struct {
							AsDouble   float64
							Attributes []struct{ Value struct{ StringValue string } }
						}
					}
				}
			}
		}
	}
	if json.Unmarshal(body, &sent) != nil {
		return
	}
	for _, r := range sent.ResourceSpans {
		for _, s := range r.ScopeSpans[0].Spans {
			s["resource"] = r.Resource
			c.spans = append(c.spans, s)
		}
	}
	for _, r := range sent.ResourceMetrics {
		p := r.ScopeMetrics[0].Metrics[0].Gauge.DataPoints[0]
		c.value, c.run = p.AsDouble, p.Attributes[0].Value.StringValue
	}
}

func (c *telemetry) RawGet(ctx context.Context, path string) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	u, err := url.Parse(path)
	if err != nil {
		return nil, err
	}
	if c.absent != "" && strings.Contains(u.Path, "/services/https:"+c.absent+":") {
		return []byte(`{"kind":"Status"}`), &apierrors.StatusError{ErrStatus: metav1.Status{Code: 503}}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	q := u.Query().Get("query") + u.Query().Get("q")
	switch {
	case strings.HasSuffix(u.Path, "/labels"):
		return []byte(`{"status":"success","data":[]}`), nil
	case strings.Contains(u.Path, "/loki/"):
		return c.loki(q), nil
	case strings.Contains(u.Path, "/api/traces/"):
		return c.trace(u.Path[strings.LastIndex(u.Path, "/")+1:])
	case strings.HasSuffix(u.Path, "/api/search"):
		if len(c.spans) == 0 || c.deaf || c.unsought {
			return []byte(`{}`), nil
		}
		return fmt.Appendf(nil, `{"traces":[{"traceID":%q}]}`, c.spans[0]["traceId"]), nil
	case q == "vector(1)":
		return []byte(`{"status":"success","data":{"resultType":"vector","result":[]}}`), nil
	case c.run == "" || !strings.Contains(q, c.run) || c.deaf:
		return []byte(`{"status":"success","data":{"resultType":"vector","result":[]}}`), nil
	}
	return fmt.Appendf(nil, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"job":%q},"value":[1,"%v"]}]}}`, c.job, c.value+c.another), nil
}

// loki finds the line of the pod whose argument has the word that is asked for.
func (c *telemetry) loki(query string) []byte {
	var values []string
	labels := map[string]string{}
	for _, o := range c.objects {
		containers, ok := get(o.Object, "spec", "containers").([]any)
		if !ok || c.deaf {
			continue
		}
		args, _ := get(containers[0].(map[string]any), "args").([]any)
		word := query[strings.LastIndex(query, "|= ")+3:]
		if len(args) != 2 || args[0] != "print" || !strings.Contains(args[1].(string), strings.Trim(word, `"`)) {
			continue
		}
		var line map[string]string
		_ = json.Unmarshal([]byte(args[1].(string)), &line)
		labels = map[string]string{
			"k8s_namespace_name": namespace, "k8s_pod_name": o.GetName(), "k8s_container_name": "probe", "service_name": "probe",
			"k8s_node_name": text(o, "spec", "nodeName"), "trace_id": line["trace_id"], "span_id": line["span_id"],
		}
		wrote := time.Now()
		if c.late > 0 {
			wrote = wrote.Add(-20 * time.Second)
			c.late--
		}
		entry, _ := json.Marshal([]string{nanos(wrote), args[1].(string)})
		values = append(values, string(entry))
		if c.twice {
			values = append(values, string(entry))
		}
	}
	for k, v := range c.label {
		labels[k] = v
	}
	stream, _ := json.Marshal(labels)
	return fmt.Appendf(nil, `{"status":"success","data":{"resultType":"streams","result":[{"stream":%s,"values":[%s]}]}}`, stream, strings.Join(values, ","))
}

func (c *telemetry) trace(id string) ([]byte, error) {
	var resources []any
	for _, s := range c.spans {
		if s["traceId"] != id || s["name"] == c.lost || c.deaf {
			continue
		}
		if s["name"] == c.orphan {
			s["parentSpanId"] = ""
		}
		resources = append(resources, map[string]any{"resource": s["resource"], "scopeSpans": []any{map[string]any{"spans": []any{s}}}})
	}
	if resources == nil {
		return []byte("trace not found"), &apierrors.StatusError{ErrStatus: metav1.Status{Code: 404}}
	}
	return json.Marshal(map[string]any{"batches": resources})
}

func TestTelemetry(t *testing.T) {
	checks := map[string]func(context.Context, Env) check.Result{"logs": logs, "traces": traces, "otlp": otlp}
	for _, c := range []struct {
		check, name string
		break_      func(*telemetry, *Env)
		state       check.State
		says        string
	}{
		{"logs", "well", nil, check.Succeeded, "with its pod's names and its trace"},
		{"logs", "lost", func(c *telemetry, _ *Env) { c.deaf = true }, check.Failed, "is not in Loki; look at the collector there"},
		{"logs", "late, and then in time", func(c *telemetry, _ *Env) { c.late = lineTries - 1 }, check.Succeeded, "with its pod's names and its trace"},
		{"logs", "late for ever", func(c *telemetry, _ *Env) { c.late = lineTries }, check.Failed, "lines are in Loki after 20 s, 20 s, 20 s, 20 s, and not within 10s"},
		{"logs", "twice", func(c *telemetry, _ *Env) { c.twice = true }, check.Failed, "one line was written and Loki has 2 of it"},
		{"logs", "under another pod", func(c *telemetry, _ *Env) { c.label = map[string]string{"k8s_pod_name": "x"} }, check.Failed, `k8s_pod_name="x", want "smoke-logs-`},
		{"logs", "without its trace", func(c *telemetry, _ *Env) { c.label = map[string]string{"trace_id": ""} }, check.Failed, `trace_id="", want`},
		{"logs", "not yet there", func(c *telemetry, _ *Env) { c.absent = "loki" }, check.Running, "Loki is not there"},
		{"logs", "not selected", func(_ *telemetry, e *Env) { e.Components = nil }, check.Skipped, "no component loki"},

		{"traces", "well", nil, check.Succeeded, "a trace of 4 spans is in Tempo"},
		{"traces", "well, without Loki", func(_ *telemetry, e *Env) { e.Components = []string{"tempo"} }, check.Succeeded, "is found by a search"},
		{"traces", "lost", func(c *telemetry, _ *Env) { c.deaf = true }, check.Failed, "not found"},
		{"traces", "a span lost", func(c *telemetry, _ *Env) { c.lost = "store order" }, check.Failed, "Tempo has 3 of 4 spans, not: store order"},
		{"traces", "a parent lost", func(c *telemetry, _ *Env) { c.orphan = "process orders" }, check.Failed, `process orders of smoke-back below ""`},
		{"traces", "not searchable", func(c *telemetry, _ *Env) { c.unsought = true }, check.Failed, "finds 0 traces"},
		{"traces", "the line names another", func(c *telemetry, _ *Env) { c.label = map[string]string{"trace_id": "1"} }, check.Failed, `Loki says "1"`},
		{"traces", "refused", func(c *telemetry, _ *Env) { c.refuse, c.answer = 429, "memory" }, check.Failed, "otel-gateway-0 refuses traces: 429 Too Many Requests: memory"},
		{"traces", "taken in part", func(c *telemetry, _ *Env) { c.answer = `{"partialSuccess":{"errorMessage":"half"}}` }, check.Failed, "only in part: half"},
		{"traces", "refused at first", func(c *telemetry, _ *Env) { c.busy = 2 }, check.Succeeded, "a trace of 4 spans is in Tempo"},
		{"traces", "no gateway", func(c *telemetry, _ *Env) { delete(c.objects, key("Pod", gatewayNamespace, "otel-gateway-0")) }, check.Failed, "no pod of the gateway is Ready"},
		{"traces", "Loki not yet there", func(c *telemetry, _ *Env) { c.absent = "loki" }, check.Running, "Loki is not there"},
		{"traces", "not selected", func(_ *telemetry, e *Env) { e.Components = []string{"loki"} }, check.Skipped, "no component tempo"},

		{"otlp", "well", nil, check.Succeeded, "is in Prometheus"},
		{"otlp", "lost", func(c *telemetry, _ *Env) { c.deaf = true }, check.Failed, "is not in Prometheus"},
		{"otlp", "another value", func(c *telemetry, _ *Env) { c.another = 1 }, check.Failed, "was pushed and Prometheus has"},
		{"otlp", "of another service", func(c *telemetry, _ *Env) { c.job = "x" }, check.Failed, `job="x"`},
		{"otlp", "not yet there", func(c *telemetry, _ *Env) { c.absent = "prometheus" }, check.Running, "Prometheus is not there"},
		{"otlp", "not selected", func(_ *telemetry, e *Env) { e.Components = []string{"loki"} }, check.Skipped, "no component prometheus"},
	} {
		t.Run(c.check+"/"+c.name, func(t *testing.T) {
			t.Parallel()
			cluster, env := newTelemetry(t)
			if c.break_ != nil {
				c.break_(cluster, &env)
			}
			limit := time.Second // what fails is tried again until the end
			if c.state == check.Succeeded {
				limit = time.Minute
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			r := checks[c.check](ctx, env)
			cluster.judge(t, r, c.state, c.says)
		})
	}
}
