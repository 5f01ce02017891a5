package console

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/orrery-dev/orrery/internal/flow"
)

// flowing is a network like that of the whole platform. With trouble, a policy drops what
// pulse sends to NATS.
func flowing(trouble *atomic.Bool) FollowFlows {
	return func(ctx context.Context, since time.Time, give func(flow.Flow), _ func(string, error)) error {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			for j, way := range []string{
				"observability/prometheus>messaging/nats TCP 7777", "observability/prometheus>observability/loki TCP 3100", "observability/prometheus>observability/tempo TCP 3200",
				"observability/prometheus>apps/pulse-ingest TCP 8080", "observability/prometheus>kube-system/coredns TCP 9153", "observability/prometheus>observability/kube-state-metrics TCP 8080",
				"observability/prometheus>observability/alertmanager TCP 9093", "observability/prometheus>nodes TCP 10250", "observability/alertmanager>apps/pulse-ingest TCP 8080",
				"apps/pulse-ingest>messaging/nats TCP 4222", "apps/pulse-worker>messaging/nats TCP 4222", "apps/pulse-load>apps/pulse-ingest TCP 9090",
				"apps/pulse-ingest>observability/otel-gateway TCP 4317", "apps/pulse-worker>observability/otel-gateway TCP 4317", "observability-agents/otel-agent>observability/otel-gateway TCP 4317",
				"observability/otel-gateway>observability/loki TCP 3100", "observability/otel-gateway>observability/tempo TCP 4317", "observability/otel-gateway>observability/prometheus TCP 9090",
				"apps/pulse-ingest>kube-system/coredns UDP 53", "apps/pulse-worker>kube-system/coredns UDP 53", "observability/otel-gateway>kube-system/coredns UDP 53", "messaging/nats>kube-system/coredns UDP 53",
				"messaging/nats>messaging/nats TCP 6222", "observability/prometheus-operator>kube-apiserver TCP 6443", "kube-system/metrics-server>nodes TCP 10250", "kube-system/coredns>kube-apiserver TCP 6443",
				"nodes>messaging/nats TCP 8222", "nodes>apps/pulse-ingest TCP 8080", "nodes>kube-system/coredns TCP 8080", "observability/kube-state-metrics>kube-apiserver TCP 6443", "apps/pulse-ingest>world TCP 443",
			} {
				f := flowOf(way)
				f.Time = time.Now()
				if trouble.Load() && strings.HasPrefix(way, "apps/pulse-worker>messaging") {
					f.Verdict, f.DropReason, f.Point = flow.Dropped, "POLICY_DENIED", "drop"
				}
				if i%(1+j%7) == 0 {
					give(f)
				}
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
			}
		}
	}
}

// flowOf reads FROM>TO PROTOCOL PORT.
func flowOf(way string) flow.Flow {
	end := func(s string) flow.Endpoint {
		if namespace, name, ok := strings.Cut(s, "/"); ok {
			return flow.Endpoint{Namespace: namespace, Workload: name, Pod: name + "-0"}
		}
		return flow.Endpoint{Reserved: map[string]string{"nodes": "remote-node"}[s] + map[string]string{"world": "world", "kube-apiserver": "kube-apiserver"}[s]}
	}
	var ends string
	f := flow.Flow{Verdict: flow.Forwarded, Point: "to-endpoint"}
	port := 0
	fmt.Sscanf(way, "%s %s %d", &ends, &f.Protocol, &port)
	from, to, _ := strings.Cut(ends, ">")
	f.Source, f.Destination = end(from), end(to)
	f.Destination.Port = port
	return f
}

func edgesOf(ways ...string) (edges []flow.Edge) {
	m := flow.NewMap(time.Unix(1000, 0))
	for _, w := range ways {
		f := flowOf(w)
		f.Time = time.Unix(1000, 0)
		m.Add(f)
	}
	return m.Edges(time.Unix(1001, 0))
}

func TestLayout(t *testing.T) {
	edges := edgesOf("a/x>a/y TCP 1", "a/y>a/z TCP 1", "a/x>a/z TCP 1", "a/z>a/x TCP 1", "a/z>a/z TCP 1", "b/alone>world TCP 443")
	picture := layout(edges)
	places, width, height := picture.places, picture.width, picture.height
	at := func(namespace, name string) *place { return places[flow.Peer{Namespace: namespace, Name: name}] }
	x, y, z := at("a", "x"), at("a", "y"), at("a", "z")
	if x.column >= y.column || y.column >= z.column {
		t.Errorf("columns %d, %d, %d: who calls stands left", x.column, y.column, z.column)
	}
	seen := map[[2]float64]bool{}
	for _, p := range places {
		if p.x < 0 || p.y < 0 || p.x+peerWidth > width || p.y+peerHeight > height || seen[[2]float64{p.x, p.y}] {
			t.Errorf("%s is at %g, %g of %g, %g", p.peer, p.x, p.y, width, height)
		}
		seen[[2]float64{p.x, p.y}] = true
	}
	again := layout(edges).places
	for p, was := range places {
		if again[p].x != was.x || again[p].y != was.y {
			t.Errorf("%s jumps", p)
		}
	}
	// A ring of everything is still a picture.
	var ring []string
	for i := range 40 {
		ring = append(ring, fmt.Sprintf("n/%d>n/%d TCP 1", i, (i+1)%40))
	}
	if places := layout(edgesOf(ring...)).places; len(places) != 40 {
		t.Errorf("%d places", len(places))
	}
	kept, more := busiest(edgesOf(ring...), 10)
	if more != 30 || len(kept) == 0 {
		t.Errorf("kept %d edges, left out %d peers", len(kept), more)
	}
}

func TestPorts(t *testing.T) {
	for want, all := range map[string][]string{
		"TCP 4222, 8222":            {"TCP 4222", "TCP 8222"},
		"UDP 53, TCP 53, 9153":      {"UDP 53", "TCP 53", "TCP 9153"},
		"TCP 1, 2, 3, 4 and 1 more": {"TCP 1", "TCP 2", "TCP 3", "TCP 4", "TCP 5"},
		"ICMPv4":                    {"ICMPv4"},
		"":                          nil,
	} {
		if got := ports(all); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Nothing is asked while nobody looks; after a failure it is tried again.
func TestFlowWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		began, follows := 0, 0
		w := newFlowWatcher(ctx, func(ctx context.Context, since time.Time, give func(flow.Flow), trouble func(string, error)) error {
			if time.Since(since) > flow.Window+time.Second {
				t.Errorf("since %s", since)
			}
			if began++; began == 1 {
				return errors.New("no node runs")
			}
			follows++
			f := flowOf("a/x>a/y TCP 1")
			f.Time = time.Now()
			give(f)
			trouble("b", errors.New("away"))
			<-ctx.Done()
			follows--
			return ctx.Err()
		})
		synctest.Wait()
		if began != 0 {
			t.Error("it begins before anybody looks")
		}
		w.view(time.Now())
		synctest.Wait()
		if got := w.view(time.Now()); got.Failed == nil || len(got.Edges) != 0 {
			t.Errorf("%+v", got)
		}
		time.Sleep(4 * time.Second)
		if got := w.view(time.Now()); got.Failed != nil || len(got.Edges) != 1 || got.Trouble["b"] == nil {
			t.Errorf("%+v", got)
		}
		time.Sleep(2 * idle)
		synctest.Wait()
		if follows != 0 {
			t.Error("it goes on while nobody looks")
		}
		w.view(time.Now())
		synctest.Wait()
		if follows != 1 {
			t.Error("it does not begin again")
		}
		cancel()
		w.wait()
	})
}

func TestServiceMapWithoutFlows(t *testing.T) {
	w := newWorld(t)
	w.flows = nil
	_, s := w.serve(t)
	if got, _ := read(t, visitor(t, s), s.URL+"/map"); !strings.Contains(got, "keeps no record") {
		t.Error(got)
	}
	w = newWorld(t)
	w.flows = func(context.Context, time.Time, func(flow.Flow), func(string, error)) error {
		return errors.New("no flows are recorded: flows need network.plugin cilium <b>")
	}
	_, s = w.serve(t)
	inside := visitor(t, s)
	deadline := time.Now().Add(10 * time.Second)
	for {
		got, _ := read(t, inside, s.URL+"/map")
		if strings.Contains(got, "network.plugin cilium &lt;b&gt;") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(got)
		}
		time.Sleep(20 * time.Millisecond) // until the page is asked for again, as a browser would
	}
}

// TestBrowserMap looks at the service map in a real browser: drawn, chosen by keyboard, red
// when something is dropped, without a reload.
func TestBrowserMap(t *testing.T) {
	b := startBrowser(t)
	w := newWorld(t)
	var trouble atomic.Bool
	w.flows = flowing(&trouble)
	_, s := w.serve(t)
	dir := shots(t)
	b.screen(1440, 900, false, "light")
	b.open(s.URL + "/?token=" + token)
	key := func(name, text string, code int) {
		b.call("Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "text": text, "key": name, "windowsVirtualKeyCode": code}, nil)
		b.call("Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": name, "windowsVirtualKeyCode": code}, nil)
	}
	key("g", "g", 71)
	key("m", "m", 77)
	b.until(`location.pathname === "/map" && document.querySelectorAll(".peer").length >= 17 && document.querySelectorAll(".ways tbody tr").length >= 30`)
	b.until(`!document.querySelector(".edge.drop") && document.querySelector("h1").textContent.includes("nothing is dropped")`)
	trouble.Store(true)
	b.until(`document.querySelectorAll(".edge.drop").length === 1 && document.querySelector("h1").textContent.includes("dropped on one way")`)
	b.until(`document.querySelector(".ways tbody tr").textContent.includes("POLICY_DENIED")`)
	for _, screen := range []struct {
		name          string
		width, height int
		phone         bool
		scheme        string
	}{{"light", 1440, 900, false, "light"}, {"dark", 1440, 900, false, "dark"}, {"phone", 390, 844, true, "light"}} {
		b.screen(screen.width, screen.height, screen.phone, screen.scheme)
		b.open(s.URL + "/map")
		b.until(`document.querySelectorAll(".peer").length >= 17`)
		var cut float64
		b.eval(`(() => { const f = document.querySelector(".flowmap"); return f.scrollHeight - f.clientHeight })()`, &cut)
		if cut > 1 {
			t.Errorf("%s: %.0f pixels of the picture are cut off", screen.name, cut)
		}
		var bad []string
		b.eval(accessible, &bad)
		for _, s := range bad {
			t.Errorf("%s: %s", screen.name, s)
		}
		b.shot(filepath.Join(dir, "map-"+screen.name+".png"), true)
	}
	b.screen(1440, 900, false, "dark")
	// A peer is reached by keyboard, keeps the focus while the picture is renewed, and chooses.
	b.eval(`document.querySelector('[data-focus="messaging/nats"]').focus()`, nil)
	b.eval(`window.before = document.querySelector('[data-focus="messaging/nats"]')`, nil)
	b.until(`document.querySelector('[data-focus="messaging/nats"]') !== window.before`)
	b.until(`document.activeElement.dataset.focus === "messaging/nats"`)
	key("Enter", "\r", 13)
	b.until(`location.search.includes("of=messaging%2Fnats") && document.querySelector(".peer.chosen") && document.querySelector(".edge.dim")`)
	b.until(`[...document.querySelectorAll(".ways tbody tr")].every((r) => r.textContent.includes("messaging/nats"))`)
	b.shot(filepath.Join(dir, "map-chosen.png"), true)
	b.open(s.URL + "/map?dropped=1")
	b.until(`document.querySelectorAll(".edge").length === 1`)
	b.call("Network.setCacheDisabled", map[string]any{"cacheDisabled": true}, nil)
	b.eval(`document.body.dataset.live = ""`, nil)
	b.mu.Lock()
	b.bytes = 0
	b.mu.Unlock()
	b.open(s.URL + "/map")
	b.until(`performance.getEntriesByName("first-contentful-paint").length`)
	b.mu.Lock()
	size := b.bytes
	b.mu.Unlock()
	t.Logf("the page has %.0f bytes", size)
	if size > 150_000 {
		t.Errorf("the page has %.0f bytes", size)
	}
	b.quiet(s.URL)
}
