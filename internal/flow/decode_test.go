package flow

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type troubles struct {
	mu  sync.Mutex
	all []string
}

func (t *troubles) tell(node string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = append(t.all, fmt.Sprintf("%s: %v", node, err))
}

func (t *troubles) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.all, "\n")
}

const (
	droppedLine = `{"flow":{"time":"2026-11-23T04:00:00.123456789Z","uuid":"u","verdict":"DROPPED","drop_reason":133,"ethernet":{"source":"1","destination":"2"},"IP":{"source":"10.244.3.7","destination":"10.244.1.9","ipVersion":"IPv4"},"l4":{"TCP":{"source_port":41234,"destination_port":4222,"flags":{"SYN":true}}},"source":{"ID":12,"identity":48211,"cluster_name":"default","namespace":"apps","labels":["k8s:app=probe"],"pod_name":"probe-x","workloads":[{"name":"probe","kind":"Deployment"}]},"destination":{"identity":11,"namespace":"messaging","labels":["k8s:app.kubernetes.io/name=nats"],"pod_name":"nats-0","workloads":[{"name":"nats","kind":"StatefulSet"}]},"Type":"L3_L4","node_name":"default/server1","event_type":{"type":1,"sub_type":133},"traffic_direction":"INGRESS","drop_reason_desc":"POLICY_DENIED","ingress_denied_by":[{"name":"deny","namespace":"messaging","kind":"CiliumNetworkPolicy"}],"Summary":"TCP Flags: SYN"},"node_name":"default/server1","time":"2026-11-23T04:00:00.123456789Z"}`
	serverLine  = `{"flow":{"time":"2026-11-23T04:00:01Z","verdict":"FORWARDED","IP":{"source":"10.244.3.7","destination":"10.89.0.11"},"l4":{"TCP":{"source_port":41234,"destination_port":6443}},"source":{"namespace":"apps","pod_name":"probe-x"},"destination":{"identity":7,"labels":["reserved:remote-node","reserved:kube-apiserver"]},"destination_service":{"name":"kubernetes","namespace":"default"},"node_name":"agent1","trace_observation_point":"TO_NETWORK","event_type":{"type":4,"sub_type":11},"traffic_direction":"EGRESS","is_reply":false,"egress_allowed_by":[{"name":"out"}]}}`
	dnsLine     = `{"flow":{"time":"2026-11-23T04:00:02Z","verdict":"FORWARDED","IP":{"source":"10.244.3.7","destination":"1.2.3.4"},"l4":{"UDP":{"source_port":53,"destination_port":4000}},"destination":{"identity":2,"labels":["reserved:world"]},"destination_names":["example.org"],"Type":"L7","event_type":{"type":129},"is_reply":true,"l7":{"type":"RESPONSE","latency_ns":"1","dns":{"query":"example.org.","ips":["1.2.3.4"],"qtypes":["A"],"rcode":3}}}}`
)

func TestDecode(t *testing.T) {
	for name, c := range map[string]struct {
		line string
		want Flow
	}{
		"dropped": {droppedLine, Flow{
			Time: time.Date(2026, 11, 23, 4, 0, 0, 123456789, time.UTC), Node: "server1", Verdict: Dropped, DropReason: "POLICY_DENIED", Direction: Ingress, Protocol: "TCP",
			Source:      Endpoint{IP: "10.244.3.7", Port: 41234, Namespace: "apps", Pod: "probe-x", Workload: "probe", WorkloadKind: "Deployment", Identity: 48211, Labels: []string{"k8s:app=probe"}},
			Destination: Endpoint{IP: "10.244.1.9", Port: 4222, Namespace: "messaging", Pod: "nats-0", Workload: "nats", WorkloadKind: "StatefulSet", Identity: 11, Labels: []string{"k8s:app.kubernetes.io/name=nats"}},
			DeniedBy:    []string{"messaging/deny"}, Point: "drop", Summary: "TCP Flags: SYN",
		}},
		"an API server": {serverLine, Flow{
			Time: time.Date(2026, 11, 23, 4, 0, 1, 0, time.UTC), Node: "agent1", Verdict: Forwarded, Direction: Egress, Protocol: "TCP", Service: "default/kubernetes",
			Source:      Endpoint{IP: "10.244.3.7", Port: 41234, Namespace: "apps", Pod: "probe-x"},
			Destination: Endpoint{IP: "10.89.0.11", Port: 6443, Identity: 7, Reserved: "kube-apiserver", Labels: []string{"reserved:remote-node", "reserved:kube-apiserver"}},
			AllowedBy:   []string{"out"}, Point: "to-network",
		}},
		"a name": {dnsLine, Flow{
			Time: time.Date(2026, 11, 23, 4, 0, 2, 0, time.UTC), Verdict: Forwarded, Protocol: "UDP", Reply: true, Point: "l7",
			Source:      Endpoint{IP: "10.244.3.7", Port: 53},
			Destination: Endpoint{IP: "1.2.3.4", Port: 4000, Identity: 2, Reserved: "world", Labels: []string{"reserved:world"}, Names: []string{"example.org"}},
			DNS:         &DNS{Query: "example.org", Types: []string{"A"}, Response: true, Code: 3, IPs: []string{"1.2.3.4"}},
		}},
	} {
		got, err := decode([]byte(c.line))
		if d := cmp.Diff(c.want, got); d != "" || err != nil {
			t.Errorf("%s: %v\n%s", name, err, d)
		}
	}
	kubelet, err := decode([]byte(`{"flow":{"time":"2026-11-23T04:00:01Z","verdict":"FORWARDED","l4":{"TCP":{"source_port":41234,"destination_port":8080}},"source":{"identity":1,"labels":["reserved:host","reserved:kube-apiserver"]}}}`))
	if err != nil || kubelet.Source.Reserved != "host" {
		t.Errorf("what else runs on a server is %q, %v", kubelet.Source.Reserved, err)
	}
	if _, err := decode([]byte(`{"node_status":{"state_change":"NODE_CONNECTED"}}`)); !errors.Is(err, errNoFlow) {
		t.Error(err)
	}
	for _, bad := range []string{"", "x", "[]", `{"flow":{"time":"yesterday"}}`, `{"flow":{"l4":{"TCP":7}}}`} {
		if f, err := decode([]byte(bad)); err == nil {
			t.Errorf("%q is taken for %+v", bad, f)
		}
	}
}

func TestNames(t *testing.T) {
	for want, e := range map[string]Endpoint{
		"messaging/nats-0:4222":   {Namespace: "messaging", Pod: "nats-0", IP: "10.1.1.1", Port: 4222},
		"10.89.0.11 (host):10250": {Reserved: "host", IP: "10.89.0.11", Port: 10250},
		"example.org:443":         {Reserved: "world", IP: "1.2.3.4", Port: 443, Names: []string{"example.org."}},
		"10.9.9.9":                {IP: "10.9.9.9"},
		"[fd00::1]:53":            {IP: "fd00::1", Port: 53},
		"?":                       {},
	} {
		if got := e.Address(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// FuzzDecode: whatever is printed, it is a flow with a name at both ends, or an error.
func FuzzDecode(f *testing.F) {
	for _, line := range []string{droppedLine, serverLine, dnsLine, `{"lost_events":{"num_events_lost":3}}`, `{"node_status":{}}`, "null", ""} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		flow, err := decode(line)
		if err == nil && (flow.Source.Address() == "" || flow.Destination.Address() == "") {
			t.Errorf("no name: %+v", flow)
		}
	})
}
