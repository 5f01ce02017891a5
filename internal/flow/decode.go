package flow

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// wire is one line of `hubble observe -o jsonpb`: GetFlowsResponse in the JSON form of
// protocol buffers (observer.proto). What is not read here is skipped.
type wire struct {
	Flow       *wireFlow `json:"flow"`
	LostEvents *struct {
		Source string      `json:"source"`
		Number json.Number `json:"num_events_lost"` // uint64 are strings
	} `json:"lost_events"`
	NodeStatus *struct {
		State   string   `json:"state_change"`
		Nodes   []string `json:"node_names"`
		Message string   `json:"message"`
	} `json:"node_status"`
}

type wireFlow struct {
	Time           time.Time    `json:"time"`
	Verdict        string       `json:"verdict"`
	DropReason     string       `json:"drop_reason_desc"`
	Direction      string       `json:"traffic_direction"`
	Point          string       `json:"trace_observation_point"`
	SockPoint      string       `json:"sock_xlate_point"`
	NodeName       string       `json:"node_name"`
	Summary        string       `json:"Summary"`
	IsReply        *bool        `json:"is_reply"`
	Source         wireEndpoint `json:"source"`
	Destination    wireEndpoint `json:"destination"`
	SourceNames    []string     `json:"source_names"`
	DestNames      []string     `json:"destination_names"`
	DestService    *wireService `json:"destination_service"`
	EgressAllowed  []wirePolicy `json:"egress_allowed_by"`
	IngressAllowed []wirePolicy `json:"ingress_allowed_by"`
	EgressDenied   []wirePolicy `json:"egress_denied_by"`
	IngressDenied  []wirePolicy `json:"ingress_denied_by"`
	IP             struct {
		Source      string `json:"source"`
		Destination string `json:"destination"`
	} `json:"IP"`
	L4    map[string]wirePorts `json:"l4"`
	Event struct {
		Type int `json:"type"`
	} `json:"event_type"`
	L7 *struct {
		Type string `json:"type"`
		DNS  *struct {
			Query string   `json:"query"`
			Types []string `json:"qtypes"`
			Code  int      `json:"rcode"`
			IPs   []string `json:"ips"`
		} `json:"dns"`
	} `json:"l7"`
}

type wirePorts struct {
	Source      int `json:"source_port"`
	Destination int `json:"destination_port"`
}

type wireEndpoint struct {
	Identity  uint32   `json:"identity"`
	Namespace string   `json:"namespace"`
	Labels    []string `json:"labels"`
	Pod       string   `json:"pod_name"`
	Workloads []struct {
		Name string `json:"name"`
		Kind string `json:"kind"`
	} `json:"workloads"`
}

type wireService struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

type wirePolicy struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

// errNoFlow says that a line is whole and about something else than a flow.
var errNoFlow = errors.New("no flow")

// lostError says that a node dropped events before anybody could read them.
type lostError struct {
	source string
	number json.Number
}

func (e lostError) Error() string {
	number := cmp.Or(string(e.number), "some")
	if number != "1" {
		number += " events were"
	} else {
		number += " event was"
	}
	return fmt.Sprintf("%s lost (%s)", number, strings.ToLower(strings.ReplaceAll(e.source, "_", " ")))
}

// decode reads one line. errNoFlow and lostError are about lines that are well.
func decode(line []byte) (Flow, error) {
	var w wire
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	if err := d.Decode(&w); err != nil {
		return Flow{}, fmt.Errorf("hubble printed what is no flow: %w: %.120q", err, line)
	}
	switch {
	case w.LostEvents != nil:
		return Flow{}, lostError{w.LostEvents.Source, w.LostEvents.Number}
	case w.Flow == nil:
		return Flow{}, errNoFlow
	}
	in := w.Flow
	f := Flow{
		Time: in.Time, Node: in.NodeName, Verdict: Verdict(in.Verdict), Reply: in.IsReply != nil && *in.IsReply, Summary: in.Summary,
		Source:      in.Source.endpoint(in.IP.Source, in.SourceNames),
		Destination: in.Destination.endpoint(in.IP.Destination, in.DestNames),
		AllowedBy:   policies(in.EgressAllowed, in.IngressAllowed),
		DeniedBy:    policies(in.EgressDenied, in.IngressDenied),
		Point:       in.point(),
	}
	if _, name, ok := strings.Cut(f.Node, "/"); ok { // CLUSTER/NODE
		f.Node = name
	}
	if f.Verdict == Dropped {
		f.DropReason = cmp.Or(in.DropReason, "DROP_REASON_UNKNOWN")
	}
	switch in.Direction {
	case "INGRESS":
		f.Direction = Ingress
	case "EGRESS":
		f.Direction = Egress
	}
	for protocol, ports := range in.L4 { // a oneof: there is one at most
		f.Protocol, f.Source.Port, f.Destination.Port = protocol, ports.Source, ports.Destination
	}
	f.Source.server()
	f.Destination.server()
	if s := in.DestService; s != nil && s.Name != "" {
		f.Service = s.Namespace + "/" + s.Name
	}
	if in.L7 != nil && in.L7.DNS != nil {
		q := in.L7.DNS
		f.DNS = &DNS{Query: strings.TrimSuffix(q.Query, "."), Types: q.Types, Response: in.L7.Type == "RESPONSE", Code: q.Code, IPs: q.IPs}
	}
	return f, nil
}

// Types of events (pkg/monitor/api/types.go).
const (
	eventDrop          = 1
	eventPolicyVerdict = 5
	eventL7            = 129
)

// point where the flow was seen.
func (f *wireFlow) point() string {
	switch {
	case f.Event.Type == eventDrop:
		return "drop"
	case f.Event.Type == eventPolicyVerdict:
		return "policy-verdict"
	case f.Event.Type == eventL7:
		return "l7"
	}
	name := f.Point
	if f.SockPoint != "" && f.SockPoint != "SOCK_XLATE_POINT_UNKNOWN" {
		name = strings.TrimPrefix(f.SockPoint, "SOCK_XLATE_POINT_")
	}
	if name == "UNKNOWN_POINT" {
		return ""
	}
	return strings.ToLower(strings.ReplaceAll(name, "_", "-"))
}

const reservedPrefix = "reserved:"

func (e wireEndpoint) endpoint(ip string, names []string) Endpoint {
	out := Endpoint{
		IP: ip, Namespace: e.Namespace, Pod: e.Pod, Identity: e.Identity, Labels: e.Labels,
		Names: slices.DeleteFunc(names, func(n string) bool { return n == "" })}
	if len(e.Workloads) > 0 {
		out.Workload, out.WorkloadKind = e.Workloads[0].Name, e.Workloads[0].Kind
	}
	for _, l := range e.Labels {
		if r, ok := strings.CutPrefix(l, reservedPrefix); ok && out.Reserved == "" {
			out.Reserved = r
		}
	}
	if out.Pod != "" {
		out.Reserved = ""
	}
	return out
}

// apiPort is where API servers listen on their nodes.
const apiPort = 6443

// server tells the API server from the rest of its node, which has the same labels: the
// kubelet there, say, when it asks pods whether they live.
func (e *Endpoint) server() {
	if e.Reserved == "" || !slices.Contains(e.Labels, reservedPrefix+"kube-apiserver") {
		return
	}
	e.Reserved = "kube-apiserver"
	if e.Port == apiPort {
		return
	}
	for _, node := range []string{"host", "remote-node"} {
		if slices.Contains(e.Labels, reservedPrefix+node) {
			e.Reserved = node
		}
	}
}

func policies(lists ...[]wirePolicy) []string {
	var names []string
	for _, list := range lists {
		for _, p := range list {
			if p.Namespace != "" {
				p.Name = p.Namespace + "/" + p.Name
			}
			names = append(names, p.Name)
		}
	}
	return names
}
