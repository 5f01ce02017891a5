package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// observed: what the platform knows of itself can be asked in the terminal and is on the
// console's page. Without the components that observe, the verbs say what is missing.
func observed(t *testing.T, e *environment) {
	components := map[string]bool{}
	for _, c := range e.status(t).Components {
		components[c.Name] = true
	}
	type series struct {
		Labels map[string]string
		Points []struct{ Value string }
	}
	if components["prometheus"] {
		up := decode[[]series](t, e.run(t, "query", `up{job="kube-apiserver"}`, "-o", "json"))
		if len(up) != 3 || slices.ContainsFunc(up, func(s series) bool { return s.Points[0].Value != "1" }) {
			t.Errorf("API servers by Prometheus: %+v", up)
		}
		if r := e.try(t, "query", "up{"); r.code != 2 || !strings.Contains(r.stderr, "query refused") {
			t.Errorf("a query with a mistake: %s", r)
		}
		for _, name := range []string{"prometheus", "observability/prometheus:web"} {
			body := throughOpen(t, e, name, "/api/v1/query?query=up")
			if !strings.Contains(body, `"status":"success"`) {
				t.Errorf("through orrery open %s: %s", name, last(body, 500))
			}
		}
	} else if r := e.try(t, "query", "up"); r.code != 1 || !strings.Contains(r.stderr, "Prometheus is not there") {
		t.Errorf("without Prometheus: %s", r)
	}
	consolePage(t, e)
}

// opening runs a verb that prints where it listens; stop ends it as a person would.
func opening(t *testing.T, e *environment, args ...string) (address string, stop func()) {
	t.Helper()
	r := e.start(t, append(args, "-o", "json")...)
	line, err := r.out.ReadString('\n')
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, r.stderr)
	}
	var at struct{ URL string }
	if err := json.Unmarshal([]byte(line), &at); err != nil || !strings.Contains(at.URL, "://") {
		t.Fatalf("%v printed %q", args, line)
	}
	return at.URL, func() {
		if code, rest := r.end(t, syscall.SIGINT); code != 0 {
			t.Errorf("%v ended with %d: %s", args, code, rest)
		}
	}
}

func throughOpen(t *testing.T, e *environment, name, path string) string {
	t.Helper()
	address, stop := opening(t, e, "open", name)
	defer stop()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(e.run(t, "trust", "--print")))
	// As a browser of who trusts the environment's authority.
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	resp, err := client.Get(strings.TrimSuffix(address, "/") + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func consolePage(t *testing.T, e *environment) {
	address, stop := opening(t, e, "console")
	defer stop()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	// A name below localhost is this machine, as browsers have it.
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
	}
	client := &http.Client{Jar: jar, Transport: &http.Transport{DialContext: dial}}
	defer client.CloseIdleConnections()
	get := func(address string) (int, string) {
		t.Helper()
		resp, err := client.Get(address)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	base, _, _ := strings.Cut(address, "/?")
	if code, _ := get(base + "/"); code != http.StatusForbidden {
		t.Errorf("without the token: %d", code)
	}
	code, page := get(address)
	if code != http.StatusOK {
		t.Fatalf("with the token: %d %s", code, page)
	}
	for _, n := range e.status(t).Nodes {
		if want := fmt.Sprintf("%s, %s in zone %s, ready", n.Name, n.Role, n.Zone); !strings.Contains(page, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	resp, err := client.Get(base + "/events?page=" + url.QueryEscape("/"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || !strings.HasPrefix(line, "event: patch") {
		t.Errorf("the page's events begin with %q, %v", line, err)
	}
}
