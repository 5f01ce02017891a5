package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// slowly is how long what was taken may be on its way on a machine that has much to do.
const slowly = 3 * time.Minute

// killedTelemetry kills Prometheus, Loki, Tempo and the gateway in turn while metrics,
// lines and spans flow. Whatever the gateway has acknowledged must be there in the end, and
// once.
func killedTelemetry(t *testing.T, e *environment, api proxied) {
	const service = "account"
	var lines, traces, values []string // acknowledged
	flow, stop := context.WithCancel(t.Context())
	var senders sync.WaitGroup
	// sender sends what make makes, n after n; what is not acknowledged is not counted.
	sender := func(signal string, acknowledged *[]string, message func(n int) (name string, request object)) {
		senders.Go(func() {
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for n := 1; flow.Err() == nil; n++ {
				name, request := message(n)
				if api.send(flow, signal, request) == nil {
					*acknowledged = append(*acknowledged, name)
				}
				select {
				case <-flow.Done():
				case <-tick.C:
				}
			}
		})
	}
	run := strconv.FormatInt(time.Now().UnixNano(), 16)
	sender("logs", &lines, func(n int) (string, object) {
		line := fmt.Sprintf("order %s-%d", run, n)
		return line, logLines(service, time.Now(), line)
	})
	sender("traces", &traces, func(n int) (string, object) {
		id := fmt.Sprintf("%016x%016x", time.Now().UnixNano(), n)
		return id, spansOf(service, id, time.Now(), 3)
	})
	sender("metrics", &values, func(n int) (string, object) {
		return strconv.Itoa(n), gaugeOf(service, "e2e_account_"+run, time.Now(), float64(n))
	})
	t.Cleanup(func() { stop(); senders.Wait() })

	for _, victim := range []struct{ program, pod string }{
		{"/tempo", "tempo-0"}, {"/loki", "loki-0"}, {"/prometheus-server", "prometheus-prometheus-0"}, {"/otelcol", "otel-gateway-0"},
	} {
		pids := e.running(t, victim.program)
		if victim.program == "/otelcol" { // the agent is another
			pids = slices.DeleteFunc(pids, func(pid int) bool {
				cmd, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
				return !strings.Contains(string(cmd), "gateway.yaml")
			})
		}
		if len(pids) != 1 {
			t.Fatalf("processes of %s: %v", victim.program, pids)
		}
		kill(t, pids[0])
		took := eventually(t, victim.pod+" is Ready again", slowly, func(ctx context.Context) error {
			if now := e.running(t, victim.program); slices.Contains(now, pids[0]) || len(now) == 0 {
				return fmt.Errorf("processes %v", now)
			}
			r := e.invoke(ctx, nil, "kubectl", "-n", "observability", "get", "pod", victim.pod, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
			if r.stdout != "True" {
				return fmt.Errorf("Ready is %q", r.stdout)
			}
			return nil
		})
		t.Logf("%s was killed and Ready again after %.1f s", victim.pod, took.Seconds())
	}
	stop()
	senders.Wait()
	if len(lines) < 20 || len(traces) < 20 || len(values) < 20 {
		t.Fatalf("acknowledged were %d lines, %d traces and %d values: too few to prove anything", len(lines), len(traces), len(values))
	}

	missing := slices.Clone(traces)
	took := eventually(t, "what was acknowledged is there", slowly, func(ctx context.Context) error {
		missing = slices.DeleteFunc(missing, func(id string) bool { n, err := api.spans(ctx, id); return err == nil && n == 3 })
		got, err := api.lines(ctx, fmt.Sprintf(`{service_name=%q} |= "order %s-"`, service, run))
		if err != nil {
			return err
		}
		have := map[string]int{}
		for _, l := range got {
			have[l]++
		}
		if absent := without(lines, have); len(missing) > 0 || len(absent) > 0 {
			return fmt.Errorf("of %d traces are missing %v; of %d lines %v", len(traces), few(missing), len(lines), few(absent))
		}
		for l, n := range have {
			if n > 1 {
				return fmt.Errorf("line %q is there %d times", l, n)
			}
		}
		samples, err := api.samples(ctx, "e2e_account_"+run)
		if err != nil {
			return err
		}
		if absent := without(values, samples); len(absent) > 0 {
			return fmt.Errorf("of %d values are missing %v", len(values), few(absent))
		}
		return nil
	})
	t.Logf("acknowledged: %d lines, %d spans, %d values; missing: none, %.1f s after the last", len(lines), 3*len(traces), len(values), took.Seconds())
}

func without(want []string, have map[string]int) (absent []string) {
	for _, w := range want {
		if have[w] == 0 {
			absent = append(absent, w)
		}
	}
	return absent
}

func few(all []string) string {
	if len(all) > 5 {
		return fmt.Sprintf("%v … (%d)", all[:5], len(all))
	}
	return fmt.Sprint(all)
}

// samples counts the values of a metric, by value, in the last hour.
func (p proxied) samples(ctx context.Context, name string) (map[string]int, error) {
	status, answer, err := p.do(ctx, "GET", p.service("https:prometheus:9090", "/api/v1/query?query="+name+"[1h]"), nil)
	if err != nil || status != 200 {
		return nil, errors.Join(fmt.Errorf("Prometheus: %d: %.300s", status, answer), err)
	}
	var v struct {
		Data struct {
			Result []struct{ Values [][2]json.RawMessage }
		}
	}
	if err := json.Unmarshal(answer, &v); err != nil {
		return nil, err
	}
	all := map[string]int{}
	for _, r := range v.Data.Result {
		for _, s := range r.Values {
			all[strings.Trim(string(s[1]), `"`)]++
		}
	}
	return all, nil
}

// streamLimit is max_global_streams_per_user of loki.yaml.
const streamLimit = 5000

// explosion sends lines of far too many services, spans of a trace that is too large, and
// lines that are too old. What goes beyond the limits is refused and counted, and what
// everybody else sends arrives all the same.
func explosion(t *testing.T, api proxied) {
	send := func(signal string, request object) {
		eventually(t, "the gateway takes "+signal, slowly, func(ctx context.Context) error { return api.send(ctx, signal, request) })
	}
	// A service that Loki knows; one that is new has no room until the others are idle.
	calm := func(ctx context.Context) error {
		line := fmt.Sprintf("calm %d", time.Now().UnixNano())
		if err := api.send(ctx, "logs", logLines("calm", time.Now(), line)); err != nil {
			return err
		}
		return within(ctx, 20*time.Second, func() error {
			got, err := api.lines(ctx, fmt.Sprintf(`{service_name="calm"} |= %q`, line))
			if err == nil && len(got) == 0 {
				err = fmt.Errorf("Loki has no %q", line)
			}
			return err
		})
	}
	eventually(t, "a line arrives", slowly, calm)
	exploded := func(from, to int) {
		var all []object
		for n := from; n < to; n++ {
			all = append(all, logLines(fmt.Sprintf("explosion-%d", n), time.Now(), "boom")["resourceLogs"].([]object)...)
		}
		send("logs", object{"resourceLogs": all})
	}
	for n := 0; n < streamLimit+1000; n += 1000 {
		exploded(n, n+1000)
	}
	// Beyond max_bytes_per_trace of tempo.yaml.
	ballast := strings.Repeat("x", 4000)
	id := fmt.Sprintf("%032x", time.Now().UnixNano())
	for range 8 {
		send("traces", spansOf("explosion", id, time.Now(), 200, attribute("ballast", ballast)))
	}
	send("logs", logLines("explosion-old", time.Now().Add(-20*24*time.Hour), "too old"))
	eventually(t, "Loki has refused", slowly, func(ctx context.Context) error {
		for _, reason := range []string{"stream_limit", "greater_than_max_sample_age"} {
			if n, err := api.number(ctx, fmt.Sprintf(`sum(loki_discarded_samples_total{reason=%q})`, reason)); err != nil || n == 0 {
				return errors.Join(fmt.Errorf("%s: %v", reason, n), err)
			}
		}
		return nil
	})
	streams, err := api.number(t.Context(), "max(loki_ingester_memory_streams)")
	if err != nil || streams > streamLimit {
		t.Errorf("Loki holds %v streams, at most %d: %v", streams, streamLimit, err)
	}
	took := eventually(t, "a line of others arrives", slowly, calm)
	t.Logf("%v streams of at most %d; a line of a service that was there before arrives after %.1f s", streams, streamLimit, took.Seconds())
}

// within asks again until f is satisfied or the time is over.
func within(ctx context.Context, limit time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// clocks sends with clocks that are behind and ahead, by what nodes may be off: all of it
// is taken and found. What is off by more is not: Prometheus and Loki say so, and Tempo, to
// which the time of a span means nothing, keeps it.
func clocks(t *testing.T, api proxied) {
	type sent struct {
		skew    time.Duration
		run, id string
		at      time.Time
	}
	off := func(skew time.Duration) sent {
		// A service each: Loki takes what is an hour older than the newest at most of its stream.
		s := sent{skew, fmt.Sprintf("%x", time.Now().UnixNano()), fmt.Sprintf("%032x", time.Now().UnixNano()), time.Now().Add(skew)}
		service := "skewed" + skew.String()
		for signal, request := range map[string]object{
			"logs": logLines(service, s.at, "skewed "+s.run), "traces": spansOf(service, s.id, s.at, 2), "metrics": gaugeOf(service, "e2e_skew_"+s.run, s.at, 1),
		} {
			if err := api.send(t.Context(), signal, request); err != nil {
				t.Fatalf("%s with a clock that is %s off: %v", signal, skew, err)
			}
		}
		return s
	}
	look := func(ctx context.Context, s sent) (lines, spans, values int, err error) {
		got, errLines := api.lines(ctx, fmt.Sprintf(`{service_name=~"skewed.+"} |= "skewed %s"`, s.run))
		spans, errSpans := api.spans(ctx, s.id)
		found, errValues := api.query(ctx, fmt.Sprintf(`last_over_time(e2e_skew_%s[5m] @ %d)`, s.run, s.at.Unix()+1))
		return len(got), spans, len(found), errors.Join(errLines, errSpans, errValues)
	}
	// In turn, so that what cannot be taken has the chance to take along what can.
	var within, beyond []sent
	for _, skew := range []time.Duration{-9 * time.Minute, -2 * time.Hour, -time.Minute, 2 * time.Hour, time.Minute, 9 * time.Minute} {
		if skew.Abs() < time.Hour {
			within = append(within, off(skew))
		} else {
			beyond = append(beyond, off(skew))
		}
	}
	took := eventually(t, "what has a clock that is minutes off is found", slowly, func(ctx context.Context) error {
		for _, s := range within {
			if lines, spans, values, err := look(ctx, s); err != nil || lines != 1 || spans != 2 || values != 1 {
				return errors.Join(fmt.Errorf("%s off: %d lines, %d spans, %d values", s.skew, lines, spans, values), err)
			}
		}
		return nil
	})
	t.Logf("up to nine minutes off: lines, traces and metrics are found after %.1f s", took.Seconds())
	eventually(t, "what is hours ahead is refused, and counted", slowly, func(ctx context.Context) error {
		for _, counter := range []string{`loki_discarded_samples_total{reason="too_far_in_future"}`, `otelcol_exporter_send_failed_metric_points{exporter="otlp_http/prometheus"}`} {
			if n, err := api.number(ctx, "sum("+counter+")"); err != nil || n == 0 {
				return errors.Join(fmt.Errorf("%s: %v", counter, n), err)
			}
		}
		return nil
	})
	for _, s := range beyond {
		lines, spans, values, err := look(t.Context(), s)
		t.Logf("%s off: %d lines, %d spans, %d values", s.skew, lines, spans, values)
		if ahead := s.skew > 0; err != nil || spans != 2 || (lines == 0) != ahead || values != 0 {
			t.Errorf("%s off: %d lines, %d spans, %d values: %v", s.skew, lines, spans, values, err)
		}
	}
}

// volumeSize of the disk that runs full, and what is left of it when it is only nearly so:
// less than the tenth that VolumeNearlyFull wants, more than the fiftieth at which Loki stops.
const volumeSize, nearlyFull = "160m", "14M"

// fullDisk gives Loki and Tempo a small disk and fills it. They refuse what is new, say so,
// and go on; the gateway keeps what it takes, until its queue is full, and then takes no more;
// what it has taken arrives when there is room again. In the end the disks are nearly full.
func fullDisk(t *testing.T, e *environment, api proxied) {
	inNode := func(args ...string) {
		t.Helper()
		pid := e.nodes(t)["server1"].pid("kubelet")
		all := append([]string{"-t", strconv.Itoa(pid), "-m", "--"}, args...)
		if out, err := exec.CommandContext(t.Context(), "nsenter", all...).CombinedOutput(); err != nil {
			t.Fatalf("in the node, %v: %v: %s", args, err, out)
		}
	}
	var pods, sets, ballasts []string
	for _, name := range []string{"loki", "tempo"} {
		pods, sets = append(pods, "pod/"+name+"-0"), append(sets, "statefulset/"+name)
	}
	e.run(t, append([]string{"kubectl", "-n", "observability", "scale", "--replicas=0"}, sets...)...)
	e.run(t, append([]string{"kubectl", "-n", "observability", "wait", "--for=delete", "--timeout=180s"}, pods...)...)
	e.shortenQueues(t)
	for _, claim := range []string{"data-loki-0", "data-tempo-0"} {
		volume := e.run(t, "kubectl", "-n", "observability", "get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}")
		path := e.run(t, "kubectl", "get", "pv", volume, "-o", "jsonpath={.spec.local.path}")
		// Not while the kubelet has the folder mounted: unmounting its own would unmount this.
		eventually(t, "the volume of "+claim+" is unmounted", slowly, func(context.Context) error {
			mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", e.nodes(t)["server1"].pid("kubelet")))
			if err == nil && strings.Contains(string(mounts), "_observability_"+claim+" ") {
				err = fmt.Errorf("it is mounted")
			}
			return err
		})
		inNode("mount", "-t", "tmpfs", "-o", "size="+volumeSize, "orrery-e2e", path)
		ballasts = append(ballasts, filepath.Join(path, "ballast"))
	}
	e.run(t, append([]string{"kubectl", "-n", "observability", "scale", "--replicas=1"}, sets...)...)
	for _, set := range append(sets, "statefulset/otel-gateway") {
		e.run(t, "kubectl", "-n", "observability", "rollout", "status", set, "--timeout=180s")
	}
	arrives := func(ctx context.Context) error {
		run, id := fmt.Sprintf("%x", time.Now().UnixNano()), fmt.Sprintf("%032x", time.Now().UnixNano())
		if err := api.send(ctx, "logs", logLines("disk", time.Now(), "disk "+run)); err != nil {
			return err
		}
		if err := api.send(ctx, "traces", spansOf("disk", id, time.Now(), 2)); err != nil {
			return err
		}
		return within(ctx, 30*time.Second, func() error {
			got, err := api.lines(ctx, fmt.Sprintf(`{service_name="disk"} |= "disk %s"`, run))
			n, errSpans := api.spans(ctx, id)
			if err != nil || errSpans != nil || len(got) != 1 || n != 2 {
				return errors.Join(fmt.Errorf("%d lines, %d spans", len(got), n), err, errSpans)
			}
			return nil
		})
	}
	eventually(t, "it works on the small disk", slowly, arrives)
	restarts := func() string {
		return e.run(t, "kubectl", "-n", "observability", "get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}")
	}
	before := restarts()
	for _, ballast := range ballasts {
		inNode("sh", "-c", "cat /dev/zero > "+ballast+" 2>/dev/null || true")
	}
	// A line of this size fills a hundredth of the queue, so some hundred are taken.
	run, ballast := fmt.Sprintf("%x", time.Now().UnixNano()), strings.Repeat("x", queueSize/100)
	var owed []string
	refused := 0
	took := eventually(t, "the gateway's queue is full, and it says so", slowly, func(ctx context.Context) error {
		for range 10 {
			line := fmt.Sprintf("full %s-%d", run, len(owed))
			if api.send(ctx, "logs", logLines("disk", time.Now(), line+" "+ballast)) != nil {
				refused++
				break
			}
			owed = append(owed, line)
		}
		for _, name := range []string{"CollectorQueueNearlyFull", "CollectorRefuses"} {
			found, err := api.query(ctx, fmt.Sprintf(`ALERTS{alertname=%q, alertstate="firing", pod="otel-gateway-0"}`, name))
			if err != nil || len(found) == 0 {
				return errors.Join(fmt.Errorf("%s does not fire; %d lines were taken, %d refused", name, len(owed), refused), err)
			}
		}
		return nil
	})
	if now := restarts(); now != before {
		t.Errorf("with full disks containers were restarted: %s, before %s", now, before)
	}
	for _, ballast := range ballasts {
		inNode("truncate", "-s", "-"+nearlyFull, ballast)
	}
	t.Logf("%d lines taken with full disks, %d requests refused, the alerts fired after %.0f s", len(owed), refused, took.Seconds())
	took = eventually(t, "what was taken while the disks were full is there", slowly, func(ctx context.Context) error {
		// Without the ballast, which is too much for one answer.
		got, err := api.lines(ctx, fmt.Sprintf(`{service_name="disk"} |= "full %s-" | regexp "^(?P<head>full [^ ]+)" | line_format "{{.head}}"`, run))
		if err != nil {
			return err
		}
		have := map[string]int{}
		for _, l := range got {
			have[l]++
		}
		if absent := without(owed, have); len(absent) > 0 {
			return fmt.Errorf("of %d lines are missing %v", len(owed), few(absent))
		}
		return nil
	})
	t.Logf("there again %.1f s after there was room", took.Seconds())
	eventually(t, "it works again", slowly, arrives)
}

// queueSize of the gateway's queues here, in bytes: as many as fill it in a moment.
const queueSize = 2 << 20

// shortenQueues gives the gateway queues that a test can fill.
func (e *environment) shortenQueues(t *testing.T) {
	t.Helper()
	const shipped = "queue_size: 268435456"
	name := e.run(t, "kubectl", "-n", "observability", "get", "statefulset", "otel-gateway", "-o", `jsonpath={.spec.template.spec.volumes[?(@.configMap)].configMap.name}`)
	config := e.run(t, "kubectl", "-n", "observability", "get", "configmap", name, "-o", `jsonpath={.data.gateway\.yaml}`)
	if !strings.Contains(config, shipped) {
		t.Fatalf("the gateway's configuration has no %q", shipped)
	}
	patch, err := json.Marshal(object{"data": object{"gateway.yaml": strings.ReplaceAll(config, shipped, fmt.Sprintf("queue_size: %d", queueSize))}})
	if err != nil {
		t.Fatal(err)
	}
	e.run(t, "kubectl", "-n", "observability", "patch", "configmap", name, "--type=merge", "-p", string(patch))
	e.run(t, "kubectl", "-n", "observability", "delete", "pod", "otel-gateway-0")
}

// hasten has every alert fire after five seconds instead of minutes. That they wait as long as
// they should, their own unit tests say.
func (e *environment) hasten(t *testing.T) {
	t.Helper()
	var all struct {
		Items []object `json:"items"`
	}
	if err := json.Unmarshal([]byte(e.run(t, "kubectl", "get", "prometheusrules", "-A", "-o", "json")), &all); err != nil {
		t.Fatal(err)
	}
	hastened := 0
	for _, item := range all.Items {
		groups, _ := item["spec"].(object)["groups"].([]any)
		for _, g := range groups {
			rules, _ := g.(object)["rules"].([]any)
			for _, r := range rules {
				if rule := r.(object); rule["for"] != nil {
					rule["for"] = "5s"
					hastened++
				}
			}
		}
	}
	if hastened == 0 {
		t.Fatal("no alert waits: is this the list of rules?")
	}
	text, err := json.Marshal(object{"apiVersion": "v1", "kind": "List", "items": all.Items})
	if err != nil {
		t.Fatal(err)
	}
	e.runWith(t, string(text), "kubectl", "replace", "-f", "-")
}

// scrapeLimit has a target bring more than it may.
func scrapeLimit(t *testing.T, e *environment) {
	e.runWith(t, `
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata: {name: e2e-too-much, namespace: observability}
spec:
  sampleLimit: 5
  selector: {matchLabels: {app.kubernetes.io/name: otel-gateway}}
  podMetricsEndpoints: [{port: metrics, interval: 5s}]
`, "kubectl", "apply", "-f", "-")
}

// alerted waits until alerts have fired that have these labels, written as PromQL does.
func alerted(t *testing.T, api proxied, alerts ...string) {
	seen := map[string]bool{}
	took := eventually(t, "the alerts fired", 5*time.Minute, func(ctx context.Context) error {
		for _, labels := range alerts {
			if seen[labels] {
				continue
			}
			found, err := api.query(ctx, fmt.Sprintf(`max by (alertname) (max_over_time(ALERTS{%s, alertstate="firing"}[20m]))`, labels))
			if err != nil {
				return err
			}
			if len(found) == 0 {
				return fmt.Errorf("%s has not fired; fired have %v", labels, slices.Sorted(maps.Keys(seen)))
			}
			seen[labels] = true
		}
		return nil
	})
	t.Logf("fired: %v, the last of them after %.0f s more", slices.Sorted(maps.Keys(seen)), took.Seconds())
}
