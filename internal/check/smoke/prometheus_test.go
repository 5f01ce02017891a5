package smoke

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/observe"
)

const promProxy = "/api/v1/namespaces/observability/services/https:prometheus:9090/proxy"

// fakeProm is a Prometheus that finds what was pushed, with a rule on it, an Alertmanager
// and a receiver behind it.
type fakeProm struct {
	pushed  map[string]float64 // metric/run → value
	told    []string           // the receiver was told
	targets string
	rules   string
}

func (p *fakeProm) install(f *fakeAPI) {
	p.pushed = map[string]float64{}
	f.post = func(path string, body []byte) ([]byte, error) {
		if path != otlpPath {
			return nil, fmt.Errorf("%s: 404", path)
		}
		var m struct {
			ResourceMetrics []struct {
				ScopeMetrics []struct {
					Metrics []struct {
						Name  string
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
		if err := json.Unmarshal(body, &m); err != nil {
			return nil, err
		}
		metric := m.ResourceMetrics[0].ScopeMetrics[0].Metrics[0]
		point := metric.Gauge.DataPoints[0]
		run := point.Attributes[0].Value.StringValue
		p.pushed[metric.Name+"/"+run] = point.AsDouble
		if metric.Name == "orrery_verify_alert" {
			state := map[float64]string{1: "firing", 0: "resolved"}[point.AsDouble]
			p.told = append(p.told, fmt.Sprintf(`{"alerts":[{"status":%q,"labels":{"alertname":"OrreryVerify","run":%q}}]}`, state, run))
		}
		return nil, nil
	}
	f.exec = func(_, command string) (string, error) {
		if command == "get http://pulse-ingest.apps.svc.cluster.local.:8080/alerts?name=OrreryVerify&status=firing" {
			return p.ask(), nil
		}
		if command != "get http://127.0.0.1:8080/alerts" {
			return "", errTest
		}
		return strings.Join(p.told, "\n"), nil
	}
	f.get = func(path string) ([]byte, error) {
		path, query, _ := strings.Cut(path, "?")
		switch path {
		case promProxy + "/api/v1/query":
			values, _ := url.ParseQuery(query)
			for key, v := range p.pushed {
				metric, run, _ := strings.Cut(key, "/")
				if values.Get("query") == fmt.Sprintf("%s{run=%q}", metric, run) {
					return fmt.Appendf(nil, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"%g"]}]}}`, v), nil
				}
			}
			return []byte(`{"status":"success","data":{"resultType":"vector","result":[]}}`), nil
		case promProxy + "/api/v1/targets":
			return []byte(p.targets), nil
		case promProxy + "/api/v1/rules":
			return []byte(p.rules), nil
		case promProxy + "/api/v1/alerts":
			return []byte(`{"status":"success","data":{"alerts":[]}}`), nil
		}
		return nil, fmt.Errorf("%s: 503", path)
	}
}

// ask is what pulse says to a pod: it was told of every run that fires.
func (p *fakeProm) ask() string {
	var labels []string
	for key, v := range p.pushed {
		if run, ok := strings.CutPrefix(key, "orrery_verify_alert/"); ok && v == 1 {
			labels = append(labels, fmt.Sprintf(`{"labels":{"run":%q}}`, run))
		}
	}
	return fmt.Sprintf(`{"alerts":[%s]}`, strings.Join(labels, ","))
}

func TestPrometheusPush(t *testing.T) {
	f, env := newFake(t)
	p := &fakeProm{}
	p.install(f)
	if r := prometheusPush(t.Context(), env); r.State != check.Succeeded {
		t.Fatal(r.Message)
	}
	f.post = nil
	if r := prometheusPush(t.Context(), env); r.State != check.Running {
		t.Errorf("with nobody there: %s %s", r.State, r.Message)
	}
}

func TestAlerts(t *testing.T) {
	f, env := newFake(t)
	p := &fakeProm{}
	p.install(f)
	r := alerts(t.Context(), env)
	if r.State != check.Succeeded {
		t.Fatal(r.Message)
	}
	for run, v := range p.pushed {
		if v != 0 {
			t.Errorf("%s was left firing", run)
		}
	}
	if left := f.left(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if !strings.Contains(r.Message, "pulse has no route") {
		t.Errorf("without pulse: %s", r.Message)
	}
	f.put(map[string]any{"apiVersion": monitoringAlpha, "kind": "AlertmanagerConfig", "metadata": map[string]any{"name": "pulse", "namespace": "observability"}})
	f.put(map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "pulse-ingest", "namespace": "apps"}, "status": map[string]any{"readyReplicas": int64(2)}})
	if r = alerts(t.Context(), env); r.State != check.Succeeded || !strings.Contains(r.Message, "so was pulse") {
		t.Errorf("with pulse: %s %s", r.State, r.Message)
	}
	delete(f.objects, key("AlertmanagerConfig", "observability", "pulse"))
	p.told = []string{"smoke-alerts-receiver"}
	if r := alerts(t.Context(), env); r.State != check.Failed || !strings.Contains(r.Message, "no alert") {
		t.Errorf("a receiver that was told nonsense: %s %s", r.State, r.Message)
	}
}

func TestPrometheusRules(t *testing.T) {
	f, env := newFake(t)
	p := &fakeProm{}
	p.install(f)
	f.put(map[string]any{
		"apiVersion": monitoring, "kind": "PrometheusRule",
		"metadata": map[string]any{"name": "platform", "namespace": "observability", "uid": "1"},
		"spec":     map[string]any{"groups": []any{map[string]any{"name": "nodes", "rules": []any{map[string]any{}, map[string]any{}}}}},
	})
	loaded := func(file, health string, n int) string {
		rule := fmt.Sprintf(`{"name":"A","type":"alerting","health":%q,"lastError":"boom"}`, health)
		return fmt.Sprintf(`{"status":"success","data":{"groups":[{"name":"nodes","file":%q,"rules":[%s]}]}}`,
			file, strings.Join(slices.Repeat([]string{rule}, n), ","))
	}
	for _, test := range []struct {
		rules string
		state check.State
		says  string
	}{
		{loaded("/etc/rules/observability-platform-1.yaml", "ok", 2), check.Succeeded, "2 rules of 1"},
		{loaded("/etc/rules/observability-platform-1.yaml", "ok", 1), check.Running, "observability/platform nodes: 1 of 2"},
		{loaded("/etc/rules/observability-other-2.yaml", "ok", 2), check.Running, "0 of 2"},
		{loaded("/etc/rules/observability-platform-1.yaml", "err", 2), check.Running, "boom"},
	} {
		p.rules = test.rules
		if r := prometheusRules(t.Context(), env); r.State != test.state || !strings.Contains(r.Message, test.says) {
			t.Errorf("%s %q, want %s %q", r.State, r.Message, test.state, test.says)
		}
	}
}

// TestExpectedTargets: monitors are followed to the addresses that they select.
func TestExpectedTargets(t *testing.T) {
	f, env := newFake(t)
	meta := func(name, namespace string, labels map[string]any) map[string]any {
		return map[string]any{"name": name, "namespace": namespace, "labels": labels}
	}
	f.put(map[string]any{"apiVersion": "v1", "kind": "Service", "metadata": meta("nats", "messaging", map[string]any{"app": "nats"})})
	f.put(map[string]any{"apiVersion": "v1", "kind": "Service", "metadata": meta("nats", "elsewhere", map[string]any{"app": "nats"})})
	for _, n := range []string{"messaging", "elsewhere"} {
		f.put(map[string]any{
			"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
			"metadata":  meta("nats-x", n, map[string]any{"kubernetes.io/service-name": "nats"}),
			"ports":     []any{map[string]any{"name": "metrics", "port": int64(7777)}, map[string]any{"name": "client", "port": int64(4222)}},
			"endpoints": []any{map[string]any{"addresses": []any{"10.0.0." + n[:1]}}},
		})
	}
	f.put(map[string]any{
		"apiVersion": monitoring, "kind": "ServiceMonitor", "metadata": meta("nats", "messaging", nil),
		"spec": map[string]any{"selector": map[string]any{"matchLabels": map[string]any{"app": "nats"}}, "endpoints": []any{map[string]any{"port": "metrics"}}},
	})
	pod := func(name, ip, phase string) {
		f.put(map[string]any{
			"apiVersion": "v1", "kind": "Pod", "metadata": meta(name, "apps", map[string]any{"app": "web"}),
			"spec":   map[string]any{"containers": []any{map[string]any{"ports": []any{map[string]any{"name": "http", "containerPort": int64(80)}, map[string]any{"name": "metrics", "containerPort": int64(81)}}}}},
			"status": map[string]any{"podIP": ip, "phase": phase},
		})
	}
	pod("a", "10.1.0.1", "Running")
	pod("b", "10.1.0.2", "Succeeded")
	pod("c", "", "Pending")
	f.put(map[string]any{
		"apiVersion": monitoring, "kind": "PodMonitor", "metadata": meta("web", "platform", nil),
		"spec": map[string]any{
			"selector":            map[string]any{"matchExpressions": []any{map[string]any{"key": "app", "operator": "In", "values": []any{"web"}}}},
			"namespaceSelector":   map[string]any{"any": true},
			"podMetricsEndpoints": []any{map[string]any{"port": "metrics"}},
		},
	})
	config := func(name, which string) {
		o := f.put(map[string]any{"apiVersion": monitoringAlpha, "kind": "ScrapeConfig", "metadata": meta(name, "observability", nil)})
		if which != "" {
			o.SetAnnotations(map[string]string{targetsAnnotation: which})
		}
	}
	config("etcd", "servers")
	config("kubelet", "nodes")
	config("static", "")
	got, err := expectedTargets(t.Context(), env)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		"serviceMonitor/messaging/nats/0":    {"10.0.0.m:7777"},
		"podMonitor/platform/web/0":          {"10.1.0.1:81"},
		"scrapeConfig/observability/etcd":    {"server1", "server2", "server3"},
		"scrapeConfig/observability/kubelet": {"agent1", "agent2", "server1", "server2", "server3"},
		"scrapeConfig/observability/static":  nil,
	} {
		var have []string
		for target := range got[name].targets {
			have = append(have, target)
		}
		slices.Sort(have)
		if !slices.Equal(have, want) {
			t.Errorf("%s: %v, want %v", name, have, want)
		}
	}
	config("wrong", "pods")
	if _, err := expectedTargets(t.Context(), env); err == nil || !strings.Contains(err.Error(), "must be nodes or servers") {
		t.Errorf("error %v", err)
	}
}

func TestCompareTargets(t *testing.T) {
	expected := map[string]pool{
		"serviceMonitor/messaging/nats/0": {targets: map[string]bool{"10.0.0.1:7777": true, "10.0.0.2:7777": true}, some: true},
		"scrapeConfig/observability/etcd": {targets: map[string]bool{"server1": true}, byNode: true},
		"serviceMonitor/apps/web/0":       {targets: map[string]bool{}, some: true},
	}
	nats := func(host string, up, unknown bool) observe.Target {
		return observe.Target{Pool: "serviceMonitor/messaging/nats/0", URL: "http://" + host + "/metrics", Up: up, Unknown: unknown, Error: "refused"}
	}
	etcd := observe.Target{Pool: "scrapeConfig/observability/etcd", URL: "http://10.89.0.11:2381/metrics", Labels: observe.Labels{"node": "server1"}, Up: true}
	for _, test := range []struct {
		targets []observe.Target
		want    []string
	}{
		{
			[]observe.Target{nats("10.0.0.1:7777", true, false), nats("10.0.0.2:7777", true, false), etcd},
			[]string{"serviceMonitor/apps/web/0 finds nothing to scrape"},
		},
		{
			[]observe.Target{nats("10.0.0.1:7777", false, false), nats("10.0.0.2:7777", false, true), {Pool: "serviceMonitor/old/gone/0", URL: "http://10.0.0.9:1/metrics", Up: true}},
			[]string{
				"10.0.0.1:7777 of serviceMonitor/messaging/nats/0 is down: refused",
				"10.0.0.2:7777 of serviceMonitor/messaging/nats/0 was not scraped yet",
				"server1 of scrapeConfig/observability/etcd is not scraped",
				"serviceMonitor/apps/web/0 finds nothing to scrape",
				"serviceMonitor/old/gone/0 is scraped at http://10.0.0.9:1/metrics, and no monitor asks for it",
			},
		},
	} {
		if got := compareTargets(expected, test.targets); !slices.Equal(got, test.want) {
			t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
		}
	}
}
