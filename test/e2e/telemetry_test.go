package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestTelemetry is one day of metrics, logs and traces on one node: what was acknowledged
// while everything is killed, more labels than there may be, clocks that are off, a disk
// that is full, a DNS that comes back last; and the alerts that all of it has to raise.
func TestTelemetry(t *testing.T) {
	if limits() != "" {
		t.Skip("ORRERY_E2E_CORE leaves out what this is about")
	}
	if os.Getenv("ORRERY_E2E_TELEMETRY") != "1" {
		t.Skip("it takes three minutes, or five on a busy machine: ORRERY_E2E_TELEMETRY=1 runs it")
	}
	e := newEnvironment(t, "tel", "servers: 1\nagents: 0\nnetwork: {plugin: ptp}\ncomponents: [local-path, prometheus, kube-state-metrics, loki, tempo, otel-collector]\n")
	e.up(t)
	api := e.proxy(t)
	began := time.Now()
	journey := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() {
				t.Logf("%.0f s since the platform stands", time.Since(began).Seconds())
				e.keepSupport(t)
			})
			f(t)
		})
	}
	e.hasten(t)
	scrapeLimit(t, e)
	journey("strangers", func(t *testing.T) { strangers(t, e) })
	journey("killed", func(t *testing.T) { killedTelemetry(t, e, api) })
	journey("scrape-limit", func(t *testing.T) {
		alerted(t, api, `alertname="PrometheusScrapeLimitHit"`, `alertname="TargetDown", job="observability/e2e-too-much"`)
		e.run(t, "kubectl", "-n", "observability", "delete", "podmonitor", "e2e-too-much")
	})
	journey("dns-last", func(t *testing.T) { dnsLast(t, e, api) })
	journey("disk", func(t *testing.T) { fullDisk(t, e, api) })
	journey("clocks", func(t *testing.T) { clocks(t, api) })
	// After it Loki takes no line of anybody new, for half an hour.
	journey("explosion", func(t *testing.T) { explosion(t, api) })
	journey("alerts", func(t *testing.T) {
		alerted(t, api, `alertname="VolumeNearlyFull", persistentvolumeclaim="data-loki-0"`, `alertname="VolumeNearlyFull", persistentvolumeclaim="data-tempo-0"`,
			`alertname="LokiRefusesLines", reason="stream_limit"`, `alertname="TempoRefusesSpans"`, `alertname="CollectorDropsData"`)
	})
}

// running are the processes of the environment's pods whose program is one of names, an
// absolute path in its image.
func (e *environment) running(t *testing.T, names ...string) []int {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, dir := range dirs {
		cmd, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		name, _, _ := strings.Cut(string(cmd), "\x00")
		if !slices.Contains(names, name) {
			continue
		}
		cgroups, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		if strings.Contains(string(cgroups), "/orrery/"+e.name+"/") || strings.Contains(string(cgroups), "/orrery-"+e.name+".scope/") {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			pids = append(pids, pid)
		}
	}
	return pids
}

// dnsLast kills all that telemetry goes through while the cluster's DNS hangs, as after the
// restart of a whole platform, where it may be the last to come back: nobody knows an
// address, and questions get lost instead of being refused. When the DNS goes on, what was
// taken meanwhile must be on its way at once.
func dnsLast(t *testing.T, e *environment, api proxied) {
	programs := []string{"/otelcol", "/tempo", "/loki", "/prometheus-server"}
	dns, telemetry := e.running(t, "/coredns"), e.running(t, programs...)
	if len(dns) == 0 || len(telemetry) < 4 {
		t.Fatalf("processes of the DNS: %v; of telemetry: %v", dns, telemetry)
	}
	signal := func(s syscall.Signal, pids []int) {
		for _, pid := range pids {
			if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Errorf("%v to %d: %v", s, pid, err)
			}
		}
	}
	t.Cleanup(func() { signal(syscall.SIGCONT, dns) })
	signal(syscall.SIGSTOP, dns)
	signal(syscall.SIGKILL, telemetry)
	eventually(t, "telemetry runs again", restored, func(context.Context) error {
		now := e.running(t, programs...)
		if old := slices.DeleteFunc(slices.Clone(now), func(pid int) bool { return !slices.Contains(telemetry, pid) }); len(now) < len(telemetry) || len(old) > 0 {
			return fmt.Errorf("processes %v, were %v", now, telemetry)
		}
		return nil
	})
	e.run(t, "kubectl", "-n", "observability", "wait", "--for=condition=Ready", "pod", "-l", "app.kubernetes.io/name=otel-gateway", "--timeout=300s")
	// Long enough that who waits longer after each failure has come to wait for long. CoreDNS's
	// own probe gives it up after a minute.
	held, id := time.Now(), fmt.Sprintf("%032x", time.Now().UnixNano())
	eventually(t, "the gateway waits for the DNS", restored, func(ctx context.Context) error {
		if err := api.send(ctx, "traces", spansOf("dns", id, time.Now(), 1)); err != nil {
			return fmt.Errorf("the gateway takes no span: %w", err)
		}
		r := e.invoke(ctx, nil, "kubectl", "get", "--raw", "/api/v1/namespaces/observability/pods/otel-gateway-0:8888/proxy/metrics")
		if n := metric(r.stdout, "otelcol_exporter_sent_spans", `exporter="otlp_http/tempo"`); n != 0 {
			if slices.Equal(e.running(t, "/coredns"), dns) {
				t.Errorf("it has sent %v spans without the DNS", n)
			}
			t.Log("the DNS was started anew before telemetry was: nothing is proven here")
			return nil
		}
		if since := time.Since(held); since < 20*time.Second {
			return fmt.Errorf("for %s", since)
		}
		return nil
	})
	signal(syscall.SIGCONT, dns)
	answered := time.Now()
	took := eventually(t, "the gateway has delivered", restored, func(ctx context.Context) error {
		if n, err := api.spans(ctx, id); err != nil || n == 0 {
			return errors.Join(fmt.Errorf("Tempo has %d spans", n), err)
		}
		return nil
	})
	t.Logf("the first spans are in Tempo %.1f s after the DNS went on", took.Seconds())
	e.verify(t, "otel-collector", "prometheus")
	t.Logf("all of telemetry is verified %.1f s after the DNS went on", time.Since(answered).Seconds())
}

// metric is the sum of the series with a name, and with a label as it stands in the text
// format of Prometheus.
func metric(text, name, label string) float64 {
	var sum float64
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, name+"{") && strings.Contains(line, label) {
			value, _ := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndex(line, " ")+1:]), 64)
			sum += value
		}
	}
	return sum
}
