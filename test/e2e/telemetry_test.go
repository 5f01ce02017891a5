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

// collected says whether the environment has the components that telemetry goes through.
func (e *environment) collected(t *testing.T) bool {
	t.Helper()
	has := map[string]bool{}
	for _, c := range e.status(t).Components {
		has[c.Name] = c.State == "ready"
	}
	return has["otel-collector"] && has["tempo"] && has["loki"] && has["prometheus"]
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
		if strings.Contains(string(cgroups), "/orrery/"+e.name+"/") {
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
func dnsLast(t *testing.T, e *environment) {
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
		if old := slices.DeleteFunc(slices.Clone(now), func(pid int) bool { return !slices.Contains(telemetry, pid) }); len(now) < len(telemetry) || old != nil {
			return fmt.Errorf("processes %v, were %v", now, telemetry)
		}
		return nil
	})
	e.run(t, "kubectl", "-n", "observability", "wait", "--for=condition=Ready", "pod", "-l", "app.kubernetes.io/name=otel-gateway", "--timeout=120s")
	// Long enough that who waits longer after each failure has come to wait for long. CoreDNS's
	// own probe gives it up after a minute.
	held := time.Now()
	eventually(t, "the gateway waits for the DNS", restored, func(ctx context.Context) error {
		r := e.invoke(ctx, nil, "kubectl", "get", "--raw", "/api/v1/namespaces/observability/pods/otel-gateway-0:8888/proxy/metrics")
		if n := metric(r.stdout, "otelcol_receiver_accepted_spans", `receiver="otlp"`); n == 0 {
			return fmt.Errorf("it has taken no span: %s", last(r.stderr, 300))
		}
		if n := metric(r.stdout, "otelcol_exporter_sent_spans", `exporter="otlp_http/tempo"`); n != 0 {
			t.Errorf("it has sent %v spans without the DNS: this proves nothing", n)
		}
		if since := time.Since(held); since < 30*time.Second {
			return fmt.Errorf("for %s", since)
		}
		return nil
	})
	signal(syscall.SIGCONT, dns)
	answered := time.Now()
	took := eventually(t, "the gateway has delivered", time.Minute, func(ctx context.Context) error {
		r := e.invoke(ctx, nil, "kubectl", "get", "--raw", "/api/v1/namespaces/observability/pods/otel-gateway-0:8888/proxy/metrics")
		if n := metric(r.stdout, "otelcol_exporter_sent_spans", `exporter="otlp_http/tempo"`); n == 0 {
			return fmt.Errorf("it has sent no span: %s", last(r.stderr, 300))
		}
		return nil
	})
	t.Logf("the first spans are in Tempo %.1f s after the DNS went on", took.Seconds())
	e.verify(t, "otel-collector")
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
