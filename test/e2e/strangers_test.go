package e2e

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// strangers asks, from a pod's network, without a certificate and where no policy is enforced, for all
// that would change, flush or end a store. What is open on purpose is not here; docs/security.md has it.
func strangers(t *testing.T, e *environment) {
	pods := e.running(t, "/local-path")
	if len(pods) == 0 {
		t.Fatal("no pod of local-path runs, whose network could be used")
	}
	dial := func(ctx context.Context, _, address string) (net.Conn, error) {
		return dialIn(ctx, pods[0], address, 5*time.Second)
	}
	secure := &tls.Config{InsecureSkipVerify: true} // a stranger does not mind
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true, TLSClientConfig: secure}}
	escape := strings.NewReplacer(`"`, "%22", "{", "%7B", "}", "%7D")
	for pod, ports := range map[string]map[string][]string{
		"loki-0": {
			"https 3100": {
				"/flush", "/ingester/shutdown", "/ingester/prepare_shutdown", "/log_level?log_level=debug", "/ring", "/loki/api/v1/push",
				"/otlp/v1/logs", "/loki/api/v1/delete?query={a=\"b\"}&start=0", "/loki/api/v1/query?query={a=\"b\"}", "/config",
			},
			"http 3101": {"/ring", "/ready"},
			"http 9095": {"/"},
		},
		"tempo-0": {
			"https 3200": {"/flush", "/shutdown", "/ingester/ring", "/api/search"}, "https 4318": {"/v1/traces"},
			"http 3201": {"/flush", "/shutdown", "/ring"},
		},
		"prometheus-0": {"https 9090": {
			"/-/reload", "/-/quit", "/api/v1/write", "/api/v1/admin/tsdb/snapshot", "/api/v1/admin/tsdb/delete_series?match[]=up",
		}},
	} {
		selector := "app.kubernetes.io/name=" + strings.TrimSuffix(pod, "-0")
		found := e.run(t, "kubectl", "-n", "observability", "get", "pods", "-l", selector, "-o", "jsonpath={.items[0].status.podIP}")
		address := strings.TrimSpace(found)
		for port, paths := range ports {
			scheme, number, _ := strings.Cut(port, " ")
			for _, path := range paths {
				for _, method := range []string{http.MethodGet, http.MethodPost} {
					url := scheme + "://" + net.JoinHostPort(address, number) + escape.Replace(path)
					status, body, err := send(t.Context(), client, method, url, "", "", strings.NewReader("{}"))
					switch {
					case err != nil:
						t.Logf("%s: %s %s: %v", pod, method, path, err)
					case status < http.StatusBadRequest:
						t.Errorf("NOT REFUSED: %s: %s %s: %d %q", pod, method, url, status, last(body, 120))
					default:
						t.Logf("%s: %s %s: %d", pod, method, path, status)
					}
				}
			}
		}
	}
	e.run(t, "kubectl", "-n", "observability", "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
}
