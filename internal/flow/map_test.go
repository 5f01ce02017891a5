package flow

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func pod(namespace, workload string) Endpoint {
	return Endpoint{Namespace: namespace, Pod: workload + "-x", Workload: workload}
}

func at(e Endpoint, port int) Endpoint { e.Port = port; return e }

func text(edges []Edge) string {
	var b strings.Builder
	for _, e := range edges {
		fmt.Fprintf(&b, "%s>%s %.1f/%.1f %s %s\n", e.From, e.To, e.Forwarded, e.Dropped, strings.Join(e.Ports, ","), strings.Join(e.Reasons, ","))
	}
	return b.String()
}

func TestMap(t *testing.T) {
	m := NewMap(zero)
	pass := func(second int, from, to Endpoint, points ...string) {
		for _, p := range points {
			m.Add(Flow{Time: zero.Add(time.Duration(second) * time.Second), Verdict: Forwarded, Protocol: "TCP", Source: from, Destination: to, Point: p})
		}
	}
	ingest, nats := pod("apps", "pulse-ingest"), pod("messaging", "nats")
	for s := range 60 {
		pass(s, ingest, at(nats, 4222), "to-overlay", "to-endpoint") // one packet, seen twice
		if s%2 == 0 {
			pass(s, ingest, at(nats, 8222), "to-endpoint")
		}
		m.Add(Flow{Time: zero.Add(time.Duration(s) * time.Second), Verdict: Dropped, DropReason: "POLICY_DENIED", Protocol: "UDP", Source: pod("apps", "probe"), Destination: at(nats, 53), Point: "drop"})
		m.Add(Flow{Time: zero.Add(time.Duration(s) * time.Second), Verdict: Dropped, Source: pod("apps", "probe"), Destination: at(nats, 53), Point: "policy-verdict"})
	}
	pass(59, Endpoint{Reserved: "host", IP: "10.89.0.11", Port: 40000}, at(nats, 8222), "to-endpoint")
	pass(59, ingest, Endpoint{Reserved: "kube-apiserver", Port: 6443}, "to-network")
	pass(59, ingest, Endpoint{Reserved: "world", Port: 443}, "to-network")
	pass(59, Endpoint{Namespace: "x", Pod: "web-5f9cfd6f97-c4jz6"}, Endpoint{IP: "10.9.9.9"}, "to-stack")
	for _, hidden := range []Flow{
		{Time: zero, Verdict: Forwarded, Reply: true, Source: nats, Destination: at(ingest, 40000), Point: "to-endpoint"},
		{Time: zero, Verdict: Forwarded, Source: Endpoint{Reserved: "health"}, Destination: at(nats, 4240), Point: "to-endpoint"},
		{Time: zero, Verdict: Forwarded, Source: Endpoint{Reserved: "host"}, Destination: Endpoint{Reserved: "remote-node"}, Point: "to-network"},
		{Time: zero, Verdict: Dropped, DropReason: "UNSUPPORTED_L3_PROTOCOL", Source: ingest, Destination: Endpoint{IP: "ff02::2"}, Point: "drop"},
		{Time: zero, Verdict: Translated, Source: ingest, Destination: at(nats, 1), Point: "pre-direction-fwd"},
	} {
		m.Add(hidden)
	}
	now := zero.Add(time.Minute - time.Millisecond)
	want := `apps/probe>messaging/nats 0.0/1.0 UDP 53 POLICY_DENIED
apps/pulse-ingest>kube-apiserver 0.0/0.0 TCP 6443 
apps/pulse-ingest>messaging/nats 1.5/0.0 TCP 4222,TCP 8222 
apps/pulse-ingest>world 0.0/0.0 TCP 443 
nodes>messaging/nats 0.0/0.0 TCP 8222 
x/web>unknown 0.0/0.0 TCP 
`
	if got := text(m.Edges(now)); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	// Quiet for a while: it stays without a rate, then it goes.
	if got := text(m.Edges(now.Add(2 * time.Minute))); !strings.Contains(got, "apps/pulse-ingest>messaging/nats 0.0/0.0") {
		t.Errorf("after two minutes:\n%s", got)
	}
	if got := m.Edges(now.Add(6 * time.Minute)); len(got) != 0 || len(m.edges) != 0 {
		t.Errorf("after six minutes: %v", got)
	}
	// What began a moment ago is not thinned over a minute.
	m = NewMap(zero)
	for range 50 {
		pass(9, ingest, at(nats, 4222), "to-endpoint")
	}
	if got := m.Edges(zero.Add(10 * time.Second))[0].Forwarded; got != 5 {
		t.Errorf("%.1f a second, want 5", got)
	}
	// Nobody makes it grow without end.
	for i := range 3 * mostEdges {
		pass(9, pod("n", fmt.Sprint(i)), at(nats, i%65535+1), "to-endpoint")
	}
	for i := range 3 * mostNames {
		pass(9, ingest, at(nats, i+1), "to-endpoint")
	}
	edges := m.Edges(zero.Add(10 * time.Second))
	if len(edges) > mostEdges {
		t.Errorf("%d edges", len(edges))
	}
	for _, e := range edges {
		if len(e.Ports) > mostNames {
			t.Errorf("%s: %d ports", e.From, len(e.Ports))
		}
	}
}

func TestWorkloadOf(t *testing.T) {
	for name, want := range map[string]string{
		"coredns-5f9cfd6f97-c4jz6": "coredns", "local-path-nddsz": "local-path", "nats-0": "nats", "prometheus-prometheus-0": "prometheus-prometheus",
		"bare": "bare", "my-agent": "my-agent", "kube-state-metrics-6d8b7c9f4-x2kzv": "kube-state-metrics", "x-12345": "x",
	} {
		if got := workloadOf(Endpoint{Pod: name}); got != want {
			t.Errorf("%s is one of %s, want %s", name, got, want)
		}
	}
}
