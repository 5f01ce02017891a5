package console

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		if err := goleak.Find(); err != nil {
			println(err.Error())
			code = 1
		}
	}
	os.Exit(code)
}

// visitor is a browser that was let in.
func visitor(t testing.TB, s *httptest.Server) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	// A name below localhost is this machine, as browsers have it.
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, s.Listener.Addr().String())
	}
	client := &http.Client{Jar: jar, Transport: &http.Transport{DialContext: dial}}
	t.Cleanup(client.CloseIdleConnections)
	r, err := client.Get(s.URL + "/?token=" + token)
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusOK || r.Request.URL.RawQuery != "" {
		t.Fatalf("let in with %s at %s", r.Status, r.Request.URL)
	}
	return client
}

func read(t testing.TB, client *http.Client, url string) (string, *http.Response) {
	t.Helper()
	r, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body), r
}

// cookies are what a browser sends to an address.
func cookies(t testing.TB, client *http.Client, address string) []*http.Cookie {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return client.Jar.Cookies(u)
}

// What the browser keeps goes to this console alone, and not to whom another user of this machine
// has listen on another port: browsers do not tell ports apart.
func TestCookiesStayHere(t *testing.T) {
	w := newWorld(t)
	_, s := w.serve(t)
	c, _ := w.serve(t)
	client := visitor(t, s)
	for _, other := range []string{"http://127.0.0.1:1/", "http://localhost:1/", "http://evil.localhost:1/", base(c), "http://[::1]:1/"} {
		if sent := cookies(t, client, other); len(sent) > 0 {
			t.Errorf("%s is sent %v", other, sent)
		}
	}
	if len(cookies(t, client, s.URL)) == 0 {
		t.Error("the console is sent none: this test proves nothing")
	}
}

// Nobody gets in without the token, under another name, or from another page.
func TestDoor(t *testing.T) {
	w := newWorld(t)
	_, s := w.serve(t)
	own := strings.TrimPrefix(s.URL, "http://")
	_, port, _ := net.SplitHostPort(own)
	cookie := cookies(t, visitor(t, s), s.URL)[0]
	if cookie.Value == token {
		t.Error("the cookie is the token")
	}
	for _, c := range []struct {
		name, method, path, host, origin string
		cookie                           bool
		code                             int
	}{
		{"no token", "GET", "/", own, "", false, 403},
		{"wrong token", "GET", "/?token=x" + token, own, "", false, 403},
		{"assets too", "GET", "/assets/console.css", own, "", false, 403},
		{"events too", "GET", "/events?page=/", own, "", false, 403},
		{"inside", "GET", "/", own, "", true, 200},
		{"localhost", "GET", "/", "localhost:" + port, "", true, 421},
		{"the address", "GET", "/", "127.0.0.1:" + port, "", true, 421},
		{"the address with the token", "GET", "/?token=" + token, "127.0.0.1:" + port, "", false, 421},
		{"another name below localhost", "GET", "/?token=" + token, "evil.localhost:" + port, "", false, 421},
		{"another name", "GET", "/", "evil.example:80", "", true, 421},
		{"another name with the token", "GET", "/?token=" + token, "evil.example", "", false, 421},
		{"no port", "GET", "/", strings.TrimSuffix(own, ":"+port), "", true, 421},
		{"post from another page", "POST", "/verify", own, "http://evil.example", true, 403},
		{"post from another port", "POST", "/verify", own, "http://" + strings.TrimSuffix(own, port) + "1", true, 403},
		{"post from the address", "POST", "/verify", own, "http://127.0.0.1:" + port, true, 403},
		{"post without an origin", "POST", "/verify", own, "", true, 403},
		{"post from here", "POST", "/verify", own, s.URL, true, 303},
		{"a redirect stays here", "GET", "//evil.example/?token=" + token, own, "", false, 303},
		{"no page", "GET", "/nothing", own, "", true, 404},
		{"no dashboard", "GET", "/d/nothing", own, "", true, 404},
		{"no trace id", "GET", "/traces/xyz", own, "", true, 404},
		{"follow elsewhere", "GET", "/events?page=http://evil.example/", own, "", true, 400},
		{"follow nothing", "GET", "/events?page=/nothing", own, "", true, 404},
		{"method", "DELETE", "/", own, s.URL, true, 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(c.method, "http://"+own+"/", nil)
			path, query, _ := strings.Cut(c.path, "?")
			r.URL.Path, r.URL.RawQuery, r.Host = path, query, c.host
			if c.cookie {
				r.AddCookie(cookie)
			}
			if c.origin != "" {
				r.Header.Set("Origin", c.origin)
			}
			rec := httptest.NewRecorder()
			s.Config.Handler.ServeHTTP(rec, r)
			if rec.Code != c.code && !(c.code == 303 && rec.Code == 307) {
				t.Errorf("%d, want %d: %s", rec.Code, c.code, rec.Body)
			}
			if c.code == http.StatusMisdirectedRequest && strings.Contains(rec.Body.String(), own) {
				t.Errorf("the name is told to who does not know it: %s", rec.Body)
			}
			if to := rec.Header().Get("Location"); strings.HasPrefix(to, "//") || strings.Contains(to, "evil") || strings.Contains(to, token) {
				t.Errorf("sends to %s", to)
			}
			if csp := rec.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
				t.Errorf("policy %q", csp)
			}
		})
	}
	if _, err := New(t.Context(), Options{Token: "short", Address: "127.0.0.1:1"}); err == nil {
		t.Error("a short token is taken")
	}
}

func TestPages(t *testing.T) {
	w := newWorld(t)
	_, s := w.serve(t)
	client := visitor(t, s)
	for path, wants := range map[string][]string{
		"/":                                  {"One pod is starting.", "Zone a", "server3, server in zone c, ready; pods: 12 ready", "No alert fires.", "https://127.0.0.1:16443", "ContainerCreating"},
		"/d/example":                         {"<h1>Example</h1>", "No alert fires", "parse error at char 1", "/traces/" + traceName, "<option>messaging</option>", `aria-current="true">30m`},
		"/d/example?namespace=messaging":     {"<option selected>messaging</option>"},
		"/logs":                              {"beat acknowledged", `href="/traces/` + traceName, "&lt;b&gt;not markup&lt;/b&gt;", `class="error"`, `class="warn"`},
		"/logs?q=rate(x)":                    {"A search selects lines"},
		"/traces":                            {"POST /v1/beats", "32 ms"},
		"/traces?q=" + traceName:             {"40 ms · 4 spans · 2 services"},
		"/traces/" + traceName:               {"consume beats", "store was full", "1 span failed"},
		"/traces/" + strings.Repeat("d", 32): {"There is no such trace (yet)"},
		"/verify":                            {"Checks cannot be run from here"},
		"/gitops":                            {"Orrery applies this environment", "orrery gitops enable"},
	} {
		t.Run(path, func(t *testing.T) {
			var body string
			for range 20 { // what comes late is there the next time
				body, _ = read(t, client, s.URL+path)
				if !strings.Contains(body, `class="wait"`) {
					break
				}
				time.Sleep(20 * time.Millisecond) // as a person's next look; at most 20
			}
			for _, want := range wants {
				if !strings.Contains(body, want) {
					t.Errorf("no %q in %s", want, body)
				}
			}
			for _, bad := range []string{" style=", "<script>", "onclick=", "http://www", "//cdn", "%!"} {
				if strings.Contains(strings.ReplaceAll(body, `xmlns="http://www`, ""), bad) {
					t.Errorf("%q in the page", bad)
				}
			}
		})
	}
}

// What comes from the cluster cannot become markup.
func TestEscapes(t *testing.T) {
	w := newWorld(t)
	evil := `"><script>alert(1)</script>`
	s := healthy()
	s.Note, s.Environment = evil, evil
	s.Nodes[0].Name, s.Nodes[0].Zone, s.Nodes[0].Address, s.Nodes[0].State, s.Nodes[0].Health = evil, evil, evil, evil, Failing
	s.Nodes[0].Pods[0] = Pod{Namespace: evil, Name: evil, Reason: evil, Health: Failing}
	s.Pending = []Pod{{Namespace: evil, Name: evil, Reason: evil, Health: Starting}}
	s.Components[0] = Component{Name: evil, Namespace: evil, Reason: evil, Health: Failing}
	s.Alerts = []Alert{{Name: evil, Severity: evil, State: evil, Summary: evil, Runbook: evil, Since: time.Now()}}
	s.Endpoints = []Endpoint{{Name: evil, Address: evil}, {Name: evil, Address: "javascript:" + evil, Link: true}}
	w.snapshot.Store(&s)
	w.gitops = GitOps{HandedOver: true, Revision: evil, Problem: evil, Applications: []Application{{evil, evil, evil, evil, evil, Failing}}, ByHand: []ByHand{{time.Now(), evil, evil, evil}}}
	_, server := w.serve(t)
	client := visitor(t, server)
	for _, path := range []string{"/", "/gitops", "/logs?q=" + url.QueryEscape(`{a="`+evil+`"}`), "/d/example?namespace=" + url.QueryEscape(evil), "/traces?q=" + url.QueryEscape(evil)} {
		if body, _ := read(t, client, server.URL+path); strings.Contains(body, "<script>alert") {
			t.Errorf("%s: markup got in: %s", path, body)
		}
	}
}

// first paint must not wait for slow answers.
func TestSlowSources(t *testing.T) {
	w := newWorld(t)
	w.slow.Store(int64(2 * time.Second))
	_, s := w.serve(t)
	client := visitor(t, s)
	begin := time.Now()
	body, _ := read(t, client, s.URL+"/d/example")
	if took := time.Since(begin); took > time.Second {
		t.Errorf("took %s", took)
	}
	if !strings.Contains(body, `class="wait"`) {
		t.Error("nothing shows that more will come")
	}
	if len(body) > 40_000 {
		t.Errorf("the page has %d bytes", len(body))
	}
}

// events follows a page: fragment → its newest HTML.
func events(t *testing.T, client *http.Client, base, page string) <-chan [2]string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/events?page="+url.QueryEscape(page), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	out := make(chan [2]string, 100)
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		defer close(out)
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				var f struct{ ID, HTML string }
				if json.Unmarshal([]byte(data), &f) == nil {
					select {
					case out <- [2]string{f.ID, f.HTML}:
					case <-ctx.Done():
						return
					}
				}
			}
		}
	}()
	return out
}

func await(t *testing.T, in <-chan [2]string, id, text string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	var last string
	for {
		select {
		case f, ok := <-in:
			if !ok {
				t.Fatalf("events ended before %s said %q", id, text)
			}
			if f[0] == id {
				last = f[1]
				if strings.Contains(f[1], text) || (text == "" && f[1] == "") {
					return
				}
			}
		case <-deadline:
			t.Fatalf("%s never said %q; last: %s", id, text, last)
		}
	}
}

// The cluster goes away and comes back: the page says so, keeps what it had, goes on.
func TestClusterAway(t *testing.T) {
	w := newWorld(t)
	_, s := w.serve(t)
	client := visitor(t, s)
	stream := events(t, client, s.URL, "/")
	await(t, stream, "headline", "One pod is starting")
	w.away.Store(true)
	await(t, stream, "banner", "The cluster does not answer")
	body, _ := read(t, client, s.URL+"/")
	for _, want := range []string{"The cluster does not answer", "connection refused", "One pod is starting", "server1"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q while it is away", want)
		}
	}
	next := healthy()
	next.Nodes[4].Health, next.Nodes[4].State = Off, "stopped"
	w.snapshot.Store(&next)
	w.away.Store(false)
	await(t, stream, "headline", "One node is not ready")
	body, _ = read(t, client, s.URL+"/")
	if strings.Contains(body, "does not answer") {
		t.Error("it still says that the cluster is away")
	}
}

// What can be seen without the cluster is shown: stopped nodes, an environment that is gone.
func TestMerge(t *testing.T) {
	w := newWatcher(nil, 0)
	seen := []struct {
		s   Snapshot
		err error
	}{{healthy(), nil}, {}, {Snapshot{Phase: "absent"}, errors.New("absent")}, {healthy(), nil}}
	stopped := healthy()
	stopped.Phase = "stopped"
	for i := range stopped.Nodes {
		stopped.Nodes[i] = Node{Name: stopped.Nodes[i].Name, Health: Off, State: "stopped"}
	}
	seen[1].s, seen[1].err = stopped, errors.New("stopped")
	for i, want := range []string{"One pod is starting.", "The environment is stopped.", "There is no such environment.", "One pod is starting."} {
		w.look = func(context.Context) (Snapshot, error) { return seen[i].s, seen[i].err }
		w.once(t.Context())
		s := w.view().snapshot
		if got := s.headline(); got != want {
			t.Errorf("%d: %q, want %q", i, got, want)
		}
		if len(s.Nodes) != 5 || len(s.Nodes[0].Pods) == 0 {
			t.Errorf("%d: nodes or pods are lost: %+v", i, s.Nodes)
		}
	}
}

func TestHeadline(t *testing.T) {
	well := func() Snapshot {
		s := healthy()
		s.Nodes[1].Pods[3].Health = Good
		return s
	}
	for want, change := range map[string]func(*Snapshot){
		"All five nodes and eleven components are ready.": func(*Snapshot) {},
		"All five nodes and ten components are ready.":    func(s *Snapshot) { s.Components[0].Health = Off },
		"All five nodes are ready.":                       func(s *Snapshot) { s.Components = nil },
		"Two components are not ready.":                   func(s *Snapshot) { s.Components[0].Health, s.Components[1].Health = Failing, Starting },
		"One pod waits for a node and one pod fails.":     func(s *Snapshot) { s.Pending = []Pod{{}}; s.Nodes[0].Pods[0].Health = Failing },
		"One alert fires.": func(s *Snapshot) {
			s.Alerts = []Alert{{Name: "a", State: "firing"}, {Name: "a", State: "firing"}, {Name: "b", State: "pending"}}
		},
		"One node is not ready, one component is not ready and one alert fires.": func(s *Snapshot) {
			s.Nodes[0].Health, s.Components[0].Health, s.Alerts = Failing, Failing, []Alert{{State: "firing"}}
		},
		"The environment is stopped.": func(s *Snapshot) { s.Phase = "stopped" },
	} {
		s := well()
		change(&s)
		if got := s.headline(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestPanelsKeepTheirPicture(t *testing.T) {
	w := newWorld(t)
	_, s := w.serve(t)
	client := visitor(t, s)
	stream := events(t, client, s.URL, "/d/example")
	await(t, stream, "p-1-0", "exemplar")
	w.away.Store(true)
	await(t, stream, "p-1-0", "from before; asking again")
	w.away.Store(false)
	await(t, stream, "p-1-0", `<div class="chart"`)
}

// What was verified before this console is shown until something is verified in it.
func TestVerifiedBefore(t *testing.T) {
	w := newWorld(t)
	at := time.Date(2026, 11, 23, 3, 4, 5, 0, time.Local)
	w.earlier = []Check{
		{Component: "cluster", Name: "nodes", State: "succeeded", Detail: "5 of 5", Seconds: 1.5, At: at},
		{Component: "nats", Name: "nats-jetstream", State: "failed", Detail: "<no> leader", Seconds: 2, At: at.Add(time.Hour)},
	}
	_, s := w.serve(t)
	client := visitor(t, s)
	body, _ := read(t, client, s.URL+"/verify")
	for _, want := range []string{"Not verified since this console began", "Checks cannot be run from here", "1 passed, 1 failed, 0 skipped", "of 23 Nov 03:04:05 to 23 Nov 04:04:05", "&lt;no&gt; leader", "5 of 5"} {
		if strings.Contains(body, want) == (want == "Not verified since this console began") {
			t.Errorf("%q in %s", want, body)
		}
	}
	w.verify = func(context.Context, func(Check)) error { return nil }
	_, s = w.serve(t)
	client = visitor(t, s)
	if body, _ := read(t, client, s.URL+"/verify"); !strings.Contains(body, "Not verified since this console began") || !strings.Contains(body, "5 of 5") {
		t.Error(body)
	}
}

func TestVerify(t *testing.T) {
	w := newWorld(t)
	w.verify = func(ctx context.Context, report func(Check)) error {
		report(Check{Component: "nats", Name: "nats-jetstream", State: "running"})
		report(Check{Component: "cluster", Name: "nodes", State: "failed", Detail: "4 of 5", Seconds: 1.5})
		report(Check{Component: "nats", Name: "nats-jetstream", State: "succeeded", Detail: "1000 messages", Seconds: 2})
		return errors.New("interrupted")
	}
	_, s := w.serve(t)
	client := visitor(t, s)
	stream := events(t, client, s.URL, "/verify")
	await(t, stream, "checks", "Verify now")
	r, _ := http.NewRequest(http.MethodPost, s.URL+"/verify", nil)
	r.Header.Set("Origin", s.URL)
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	await(t, stream, "checks", "1 passed, 1 failed, 0 skipped")
	body, _ := read(t, client, s.URL+"/verify")
	if !strings.Contains(body, "interrupted") || strings.Index(body, "4 of 5") > strings.Index(body, "1000 messages") {
		t.Error(body)
	}
}
