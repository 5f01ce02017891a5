package app

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/orrery-dev/orrery/internal/flow"
)

func TestFlowRow(t *testing.T) {
	at := time.Date(2026, 11, 23, 4, 0, 0, 123e6, time.Local)
	probe := flow.Endpoint{Namespace: "apps", Pod: "probe-x", IP: "10.244.3.7", Port: 41234}
	for want, f := range map[string]flow.Flow{
		"04:00:00.123 server1 apps/probe-x:41234 → messaging/nats-0:4222 TCP DROPPED POLICY_DENIED at ingress, denied by messaging/deny, SYN": {
			Time: at, Node: "server1", Verdict: flow.Dropped, DropReason: "POLICY_DENIED", Direction: flow.Ingress, Protocol: "TCP", Point: "drop", Summary: "TCP Flags: SYN",
			Source: probe, Destination: flow.Endpoint{Namespace: "messaging", Pod: "nats-0", Port: 4222}, DeniedBy: []string{"messaging/deny"}},
		"04:00:00.123 agent1 10.89.0.11 (kube-apiserver):6443 → apps/probe-x:41234 TCP FORWARDED for service default/kubernetes, ACK, reply, to-endpoint": {
			Time: at, Node: "agent1", Verdict: flow.Forwarded, Protocol: "TCP", Reply: true, Point: "to-endpoint", Summary: "TCP Flags: ACK", Service: "default/kubernetes",
			Source: flow.Endpoint{IP: "10.89.0.11", Port: 6443, Reserved: "kube-apiserver"}, Destination: probe},
		"04:00:00.123 agent1 apps/probe-x:41234 → example.org:53 UDP FORWARDED dns A example.org, l7": {
			Time: at, Node: "agent1", Verdict: flow.Forwarded, Protocol: "UDP", Point: "l7", Summary: "DNS Query example.org. A", DNS: &flow.DNS{Query: "example.org", Types: []string{"A"}},
			Source: probe, Destination: flow.Endpoint{IP: "1.2.3.4", Port: 53, Reserved: "world", Names: []string{"example.org"}}},
		"04:00:00.123 agent1 apps/probe-x:41234 → example.org:53 UDP FORWARDED dns answer example.org = code 3, l7": {
			Time: at, Node: "agent1", Verdict: flow.Forwarded, Protocol: "UDP", Point: "l7", DNS: &flow.DNS{Query: "example.org", Response: true, Code: 3},
			Source: probe, Destination: flow.Endpoint{IP: "1.2.3.4", Port: 53, Reserved: "world", Names: []string{"example.org"}}},
	} {
		if got := strings.Join(flowRow(f), " "); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// Lines that come one by one stand below each other as far as that can be known, and what
// a name brings along does not reach the terminal.
func TestFlowLines(t *testing.T) {
	var b strings.Builder
	var l flowLines
	at := time.Date(2026, 11, 23, 4, 0, 0, 0, time.Local)
	for _, name := range []string{"long-name", "x\x1b[31m"} {
		if err := l.print(&b, flow.Flow{Time: at, Node: "a", Verdict: flow.Forwarded, Source: flow.Endpoint{Namespace: "n", Pod: name}, Destination: flow.Endpoint{IP: "10.0.0.1"}, Summary: "s"}); err != nil {
			t.Fatal(err)
		}
	}
	want := "04:00:00.000  a  n/long-name  →  10.0.0.1  other  FORWARDED  s\n04:00:00.000  a  n/x          →  10.0.0.1  other  FORWARDED  s\n"
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
}

func TestFlowAsk(t *testing.T) {
	since := time.Now()
	for name, c := range map[string]struct {
		in   flowOptions
		want flow.Query
	}{
		"plain": {flowOptions{query: flow.Query{Last: 100}}, flow.Query{Last: 100}},
		"words of a person": {flowOptions{query: flow.Query{Pod: "nats", Namespace: "messaging", Protocols: []string{"TCP"}, Last: 100}, verdicts: []string{"dropped"}},
			flow.Query{Pod: "messaging/nats", Namespace: "messaging", Protocols: []string{"tcp"}, Verdicts: []flow.Verdict{flow.Dropped}, Last: 100}},
		"since":              {flowOptions{query: flow.Query{Since: since, Last: 100}}, flow.Query{Since: since}},
		"since and last":     {flowOptions{query: flow.Query{Since: since, Last: 7}, last: true}, flow.Query{Since: since, Last: 7}},
		"follow":             {flowOptions{query: flow.Query{Last: 100}, follow: true}, flow.Query{Last: 20}},
		"follow, since then": {flowOptions{query: flow.Query{Since: since, Last: 100}, follow: true}, flow.Query{Since: since}},
	} {
		if d := cmp.Diff(c.want, c.in.ask()); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}
