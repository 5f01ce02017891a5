package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/kube/kubetest"
)

// object is one of the cluster.
func object(apiVersion, kind, name string, more map[string]any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{"name": name, "namespace": "default"}}}
	for k, v := range more {
		o.Object[k] = v
	}
	return o
}

// hello is a service of a developer's own, with a page and a port for something else.
func (s *small) hello() {
	s.t.Helper()
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	s.t.Cleanup(page.Close)
	s.cluster.API.HandleForward(func(f kubetest.Forward) (string, error) {
		if f.Port != 8080 {
			return "", errors.New("connection refused")
		}
		return page.Listener.Addr().String(), nil
	})
	ports := []any{map[string]any{"name": "http", "port": int64(80), "targetPort": "web"}, map[string]any{"name": "sql", "port": int64(5432)}}
	slice := object("discovery.k8s.io/v1", "EndpointSlice", "hello-x", map[string]any{
		"ports":     []any{map[string]any{"name": "http", "port": int64(8080)}, map[string]any{"name": "sql", "port": int64(5432)}},
		"endpoints": []any{map[string]any{"targetRef": map[string]any{"kind": "Pod", "name": "hello"}}},
	})
	slice.SetLabels(map[string]string{"kubernetes.io/service-name": "hello"})
	for _, o := range []*unstructured.Unstructured{
		object("v1", "Pod", "hello", nil), slice,
		object("v1", "Service", "hello", map[string]any{"spec": map[string]any{"ports": ports}}),
	} {
		s.cluster.API.Put(o)
	}
}

// until runs a verb that goes on until Ctrl-C, and gives its first line; stop is that Ctrl-C and
// tells the exit code and what was said on standard error.
func (s *small) until(command string) (line string, stop func() (code int, errs string)) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	r, w := io.Pipe()
	var errs bytes.Buffer
	var code int
	var verb sync.WaitGroup
	verb.Go(func() {
		root := newRoot(&streams{in: strings.NewReader(""), out: w, err: &errs})
		root.SetArgs(strings.Fields(command))
		root.SetOut(w)
		root.SetErr(&errs)
		code = exitCode(root.ExecuteContext(ctx), &errs)
		w.Close()
	})
	stop = func() (int, string) { cancel(); r.Close(); verb.Wait(); return code, errs.String() }
	s.t.Cleanup(func() { stop() })
	b := make([]byte, 4096)
	n, err := r.Read(b)
	if err != nil {
		_, said := stop()
		s.t.Fatalf("orrery %s: %v\n%s", command, err, said)
	}
	return string(b[:n]), stop
}

// A service of one's own is reached from the host, without anything exposed.
func TestOpen(t *testing.T) {
	s := newSmall(t)
	s.want(exitFailed, "open default/hello", `there is no environment "small"`)
	s.up()
	s.hello()
	get := func(url string) string {
		t.Helper()
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get(url)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return string(body)
	}
	for _, name := range []string{"default/hello:http", "default/hello:80"} {
		line, stop := s.until("open " + name)
		if url := strings.TrimSpace(line); !strings.HasPrefix(url, "http://127.0.0.1:") || get(url) != "hello" {
			t.Errorf("%s: %q, %q", name, line, get(url))
		}
		if code, errs := stop(); code != exitOK || errs != "until Ctrl-C\n" {
			t.Errorf("%s: %d, %s", name, code, errs)
		}
		if got := get(strings.TrimSpace(line)); !strings.Contains(got, "refused") {
			t.Errorf("%s after Ctrl-C: %s", name, got)
		}
	}

	line, stop := s.until("open default/hello:sql -o json")
	var at opened
	if err := json.Unmarshal([]byte(line), &at); err != nil || at.URL != "" || at.Name != "default/hello:sql" || !strings.HasPrefix(at.Address, "127.0.0.1:") {
		t.Errorf("%q, %v", line, err)
	}
	if got := get("http://" + at.Address); got == "hello" {
		t.Error("the port of another")
	}
	// What the node says against it comes as the connection ends.
	if code, errs := stop(); code != exitOK || !strings.Contains(errs, "port 5432 of pod default/hello: does anything listen there? connection refused") {
		t.Errorf("%d, %s", code, errs)
	}

	s.want(exitFailed, "open default/hello", "say which: default/hello:80, of 80 (http), 5432 (sql)")
	s.want(exitFailed, "open default/hello:grpc", `has no TCP port "grpc"; it has 80 (http), 5432 (sql)`)
	s.want(exitFailed, "open default/hallo", `"hallo" not found`, "orrery kubectl --env small get services")
	s.want(exitFailed, "open prometheus", "prometheus is not there (see 'orrery status --env small')")
	for _, wrong := range []string{"sesame", "default/", "/hello", "a/b/c", "default/hello:"} {
		s.want(exitUsage, "open "+wrong, fmt.Sprintf("invalid argument %q: want NAMESPACE/SERVICE[:PORT]", wrong))
	}
	if _, out, _ := s.run("__complete", "open", "de"); !strings.Contains(out, "default/hello\n") || !strings.Contains(out, "default/kubernetes\n") {
		t.Errorf("completion: %s", out)
	}
	if _, out, _ := s.run("__complete", "open", ""); !strings.Contains(out, "console\n") {
		t.Errorf("completion: %s", out)
	}
}

// A Service that waits for a load balancer says that none will come, and what to do.
func TestStatusLoadBalancer(t *testing.T) {
	s := newSmall(t)
	s.up()
	if out := s.want(exitOK, "status"); strings.Contains(out, "SERVICE") {
		t.Errorf("of no service: %s", out)
	}
	spec := func(more ...any) map[string]any {
		m := map[string]any{"type": "LoadBalancer"}
		if len(more) > 0 {
			m["loadBalancerClass"] = more[0]
		}
		return m
	}
	for _, o := range []*unstructured.Unstructured{
		object("v1", "Service", "hello", map[string]any{"spec": spec()}),
		object("v1", "Service", "classed", map[string]any{"spec": spec("example.com/mine")}),
		object("v1", "Service", "served", map[string]any{"spec": spec(),
			"status": map[string]any{"loadBalancer": map[string]any{"ingress": []any{map[string]any{"ip": "192.0.2.1"}}}}}),
	} {
		s.cluster.API.Put(o)
	}
	out := s.want(exitOK, "status", "default/hello", "pending", "no load balancer in this cluster; from the host: orrery open default/hello --env small")
	if strings.Contains(out, "classed") || strings.Contains(out, "served") {
		t.Errorf("%s", out)
	}
	var st struct {
		Services []struct{ Namespace, Name, State, Reason string }
	}
	if err := json.Unmarshal([]byte(s.want(exitOK, "status -o json")), &st); err != nil || len(st.Services) != 1 || st.Services[0].State != "pending" {
		t.Errorf("%+v, %v", st, err)
	}
}

// A Deployment that got no pods says why, unless a component does.
func TestStatusRefusedWorkload(t *testing.T) {
	s := newSmall(t)
	s.up()
	if out := s.want(exitOK, "status"); strings.Contains(out, "WORKLOAD") {
		t.Errorf("of no workload: %s", out)
	}
	const reason = `pods "web-" is forbidden: ValidatingAdmissionPolicy 'orrery-images' denied request`
	ours := object("apps/v1", "Deployment", "ours", nil)
	ours.SetLabels(map[string]string{kube.LabelComponent: "coredns"})
	for _, o := range []*unstructured.Unstructured{object("apps/v1", "Deployment", "web", nil), object("apps/v1", "Deployment", "fine", nil), ours} {
		s.cluster.API.Put(o)
		if o.GetName() != "fine" {
			s.cluster.API.Hold(kubetest.Ref{Kind: "Deployment", Namespace: "default", Name: o.GetName()}, "FailedCreate: "+reason)
		}
	}
	out := s.want(exitOK, "status", "default/web", "refused", reason)
	if strings.Contains(out, "default/fine") || strings.Contains(out, "default/ours") {
		t.Errorf("%s", out)
	}
	var st struct {
		Workloads []struct{ Namespace, Name, State, Reason string }
	}
	if err := json.Unmarshal([]byte(s.want(exitOK, "status -o json")), &st); err != nil || len(st.Workloads) != 1 || st.Workloads[0].Reason != reason {
		t.Errorf("%+v, %v", st, err)
	}
}

// The console answers under a name that nobody guesses, on both loopback addresses.
func TestConsoleName(t *testing.T) {
	s := newSmall(t)
	s.up()
	line, stop := s.until("console")
	at, err := url.Parse(strings.TrimSpace(line))
	if err != nil || !strings.HasSuffix(at.Hostname(), ".localhost") || len(at.Hostname()) < 20 || at.Query().Get("token") == "" {
		t.Fatalf("%q, %v", line, err)
	}
	for _, loopback := range []string{"127.0.0.1", "[::1]"} {
		for host, want := range map[string]int{at.Host: http.StatusForbidden, "127.0.0.1:" + at.Port(): http.StatusMisdirectedRequest} {
			r, _ := http.NewRequest(http.MethodGet, "http://"+loopback+":"+at.Port()+"/", nil)
			r.Host = host
			resp, err := http.DefaultClient.Do(r)
			switch {
			case errors.Is(err, syscall.EADDRNOTAVAIL): // no ::1 here
			case err != nil:
				t.Error(err)
			default:
				resp.Body.Close()
				if resp.StatusCode != want {
					t.Errorf("%s at %s: %s", host, loopback, resp.Status)
				}
			}
		}
	}
	http.DefaultClient.CloseIdleConnections()
	if code, errs := stop(); code != exitOK || errs != "until Ctrl-C\n" && !strings.Contains(errs, "no dashboards") {
		t.Errorf("%d, %s", code, errs)
	}
}
