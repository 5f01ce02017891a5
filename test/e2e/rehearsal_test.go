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
	status, answer, err := p.do(ctx, "GET", p.service("prometheus:9090", "/api/v1/query?query="+name+"[1h]"), nil)
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
// is taken and found.
func clocks(t *testing.T, api proxied) {
	for _, skew := range []time.Duration{-9 * time.Minute, -time.Minute, time.Minute, 9 * time.Minute} {
		run := fmt.Sprintf("%x", time.Now().UnixNano())
		id := fmt.Sprintf("%032x", time.Now().UnixNano())
		at := time.Now().Add(skew)
		for signal, request := range map[string]object{
			"logs": logLines("skewed", at, "skewed "+run), "traces": spansOf("skewed", id, at, 2), "metrics": gaugeOf("skewed", "e2e_skew_"+run, at, 1),
		} {
			if err := api.send(t.Context(), signal, request); err != nil {
				t.Fatalf("%s with a clock that is %s off: %v", signal, skew, err)
			}
		}
		took := eventually(t, "what has a clock that is "+skew.String()+" off is found", slowly, func(ctx context.Context) error {
			got, err := api.lines(ctx, fmt.Sprintf(`{service_name="skewed"} |= "skewed %s"`, run))
			if err != nil || len(got) != 1 {
				return errors.Join(fmt.Errorf("lines %v", got), err)
			}
			if n, err := api.spans(ctx, id); err != nil || n != 2 {
				return errors.Join(fmt.Errorf("%d spans", n), err)
			}
			found, err := api.query(ctx, fmt.Sprintf(`last_over_time(e2e_skew_%s[5m] @ %d)`, run, at.Unix()+1))
			if err != nil || len(found) != 1 {
				return errors.Join(fmt.Errorf("values %v", found), err)
			}
			return nil
		})
		t.Logf("%s off: a line, a trace and a metric are found after %.1f s", skew, took.Seconds())
	}
}

// volumeSize of the disk that runs full.
const volumeSize = "64m"

// fullDisk gives Loki and Tempo a small disk and fills it. They refuse what is new, say so,
// and go on; what was taken meanwhile arrives when there is room again.
func fullDisk(t *testing.T, e *environment, api proxied) {
	inNode := func(args ...string) {
		t.Helper()
		pid := e.nodes(t)["server1"].pid("kubelet")
		all := append([]string{"-t", strconv.Itoa(pid), "-m", "--"}, args...)
		if out, err := exec.CommandContext(t.Context(), "nsenter", all...).CombinedOutput(); err != nil {
			t.Fatalf("in the node, %v: %v: %s", args, err, out)
		}
	}
	pods := map[string]string{"loki-0": "data-loki-0", "tempo-0": "data-tempo-0"}
	paths := map[string]string{}
	for pod, claim := range pods {
		volume := e.run(t, "kubectl", "-n", "observability", "get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}")
		paths[pod] = e.run(t, "kubectl", "get", "pv", volume, "-o", "jsonpath={.spec.local.path}")
		// Not while the kubelet has the folder mounted: unmounting its own would unmount this.
		set := "statefulset/" + strings.TrimSuffix(pod, "-0")
		e.run(t, "kubectl", "-n", "observability", "scale", set, "--replicas=0")
		e.run(t, "kubectl", "-n", "observability", "wait", "--for=delete", "pod/"+pod, "--timeout=180s")
		eventually(t, "the volume of "+pod+" is unmounted", slowly, func(context.Context) error {
			mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", e.nodes(t)["server1"].pid("kubelet")))
			if err == nil && strings.Contains(string(mounts), "_observability_"+claim+" ") {
				err = fmt.Errorf("it is mounted")
			}
			return err
		})
		inNode("mount", "-t", "tmpfs", "-o", "size="+volumeSize, "orrery-e2e", paths[pod])
		e.run(t, "kubectl", "-n", "observability", "scale", set, "--replicas=1")
	}
	for pod := range pods {
		e.run(t, "kubectl", "-n", "observability", "rollout", "status", "statefulset/"+strings.TrimSuffix(pod, "-0"), "--timeout=180s")
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
	for pod := range pods {
		inNode("sh", "-c", "head -c 60m /dev/zero > "+filepath.Join(paths[pod], "ballast")+" || true; head -c 64m /dev/zero >> "+filepath.Join(paths[pod], "ballast")+" || true")
	}
	// What comes now is taken by the gateway and waits there.
	run := fmt.Sprintf("%x", time.Now().UnixNano())
	var owed []string
	filling := time.Now()
	took := eventually(t, "VolumeNearlyFull fires for both", 6*time.Minute, func(ctx context.Context) error {
		line := fmt.Sprintf("full %s-%d", run, len(owed))
		if time.Since(filling) < 30*time.Second && api.send(ctx, "logs", logLines("disk", time.Now(), line)) == nil {
			owed = append(owed, line)
		}
		found, err := api.query(ctx, `ALERTS{alertname="VolumeNearlyFull", alertstate="firing", persistentvolumeclaim=~"data-(loki|tempo)-0"} and on (persistentvolumeclaim) kubelet_volume_stats_capacity_bytes < 1e8`)
		if err != nil || len(found) != 2 {
			return errors.Join(fmt.Errorf("it fires for %v", found), err)
		}
		return nil
	})
	restarts := strings.Fields(e.run(t, "kubectl", "-n", "observability", "get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}"))
	if sum := slices.IndexFunc(restarts, func(n string) bool { return n != "0" }); sum >= 0 {
		t.Errorf("with full disks containers were restarted: %v", restarts)
	}
	for pod := range pods {
		inNode("rm", filepath.Join(paths[pod], "ballast"))
	}
	t.Logf("%d lines taken with full disks, the alerts fired after %.0f s, restarts %v", len(owed), took.Seconds(), restarts)
	took = eventually(t, "what was taken while the disks were full is there", slowly, func(ctx context.Context) error {
		got, err := api.lines(ctx, fmt.Sprintf(`{service_name="disk"} |= "full %s-"`, run))
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

// alerted waits until alerts have fired.
func alerted(t *testing.T, api proxied, names ...string) {
	seen := map[string]string{}
	took := eventually(t, "the alerts fired", 5*time.Minute, func(ctx context.Context) error {
		for _, name := range names {
			if seen[name] != "" {
				continue
			}
			found, err := api.query(ctx, fmt.Sprintf(`max by (alertname) (max_over_time(ALERTS{alertname=%q, alertstate="firing"}[20m]))`, name))
			if err != nil {
				return err
			}
			if len(found) == 0 {
				return fmt.Errorf("%s has not fired; fired have %v", name, slices.Sorted(maps.Keys(seen)))
			}
			seen[name] = "fired"
		}
		return nil
	})
	t.Logf("fired: %v, the last of them after %.0f s more", slices.Sorted(maps.Keys(seen)), took.Seconds())
}
