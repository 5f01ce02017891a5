package flow

import (
	"cmp"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Verdict is what became of a packet.
type Verdict string

const (
	Forwarded  Verdict = "FORWARDED"
	Dropped    Verdict = "DROPPED"
	Error      Verdict = "ERROR"
	Audit      Verdict = "AUDIT"      // a policy would have dropped it
	Redirected Verdict = "REDIRECTED" // to a proxy of the agent, such as for DNS
	Traced     Verdict = "TRACED"
	Translated Verdict = "TRANSLATED" // a Service's address became that of a pod, or back
)

// Verdicts are all there are.
var Verdicts = []Verdict{Forwarded, Dropped, Error, Audit, Redirected, Traced, Translated}

// Direction as the endpoint sees it at which the packet was seen.
type Direction string

const (
	Ingress Direction = "ingress"
	Egress  Direction = "egress"
)

// Flow is one packet, or the sign of many, that a node saw. Its JSON form is what
// `orrery flows -o json` prints, and a contract.
type Flow struct {
	Time    time.Time `json:"time"`
	Node    string    `json:"node"`
	Verdict Verdict   `json:"verdict"`
	// DropReason as Hubble names it, such as POLICY_DENIED; only with Dropped.
	DropReason string    `json:"dropReason,omitempty"`
	Direction  Direction `json:"direction,omitempty"`
	// Reply is true for what answers; false also where that is not known.
	Reply bool `json:"reply,omitempty"`
	// Protocol is TCP, UDP, SCTP, ICMPv4, ICMPv6; "" for what is none of them.
	Protocol    string   `json:"protocol,omitempty"`
	Source      Endpoint `json:"source"`
	Destination Endpoint `json:"destination"`
	// Service that was asked for, NAMESPACE/NAME; "" when it was no Service's address.
	Service string `json:"service,omitempty"`
	// Policies that allowed or denied it, NAMESPACE/NAME each.
	AllowedBy []string `json:"allowedBy,omitempty"`
	DeniedBy  []string `json:"deniedBy,omitempty"`
	// Point where it was seen, such as to-endpoint, to-overlay or policy-verdict.
	Point string `json:"point,omitempty"`
	// Summary for a person, such as "TCP Flags: SYN".
	Summary string `json:"summary,omitempty"`
	// DNS is set for what the agent's DNS proxy saw.
	DNS *DNS `json:"dns,omitempty"`
}

// Endpoint is one end of a flow.
type Endpoint struct {
	IP   string `json:"ip,omitempty"`
	Port int    `json:"port,omitempty"`
	// Namespace and Pod; "" for what is no pod of the cluster.
	Namespace string `json:"namespace,omitempty"`
	Pod       string `json:"pod,omitempty"`
	// Workload is what made the pod, such as a StatefulSet.
	Workload     string `json:"workload,omitempty"`
	WorkloadKind string `json:"workloadKind,omitempty"`
	// Reserved is host, remote-node, kube-apiserver, world, health, ingress, unmanaged, init or
	// unknown, for what is no pod.
	Reserved string `json:"reserved,omitempty"`
	// Names that the address was looked up by.
	Names    []string `json:"names,omitempty"`
	Identity uint32   `json:"identity,omitempty"`
	Labels   []string `json:"labels,omitempty"`
}

// DNS is a question or its answer.
type DNS struct {
	Query    string   `json:"query,omitempty"`
	Types    []string `json:"types,omitempty"`
	Response bool     `json:"response,omitempty"`
	// Code of an answer (RFC 1035, 4.1.1); 0 is well, 3 is "no such name".
	Code int      `json:"code,omitempty"`
	IPs  []string `json:"ips,omitempty"`
}

// Name for a person: the pod, else what the address is known as, else the address.
func (e Endpoint) Name() string {
	switch {
	case e.Pod != "":
		return e.Namespace + "/" + e.Pod
	case len(e.Names) > 0:
		return strings.TrimSuffix(e.Names[0], ".")
	case e.Reserved != "" && e.IP != "":
		return e.IP + " (" + e.Reserved + ")"
	}
	return cmp.Or(e.IP, e.Reserved, "?")
}

// Address is Name with the port, when there is one.
func (e Endpoint) Address() string {
	if e.Port == 0 {
		return e.Name()
	}
	if e.Pod == "" && e.Reserved == "" && strings.Contains(e.IP, ":") {
		return net.JoinHostPort(e.IP, strconv.Itoa(e.Port))
	}
	return e.Name() + ":" + strconv.Itoa(e.Port)
}

// order by time; at the same time by node, so that two readings agree.
func order(a, b Flow) int {
	return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Node, b.Node))
}

// newest n of flows that are in order; 0 is all.
func newest(flows []Flow, n int) []Flow {
	if n > 0 && len(flows) > n {
		return slices.Clip(flows[len(flows)-n:])
	}
	return flows
}
