package flow

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Query selects flows. What is empty selects all.
type Query struct {
	// Pod, From and To are NAMESPACE/NAME or the beginning of it: either end, the source,
	// the destination.
	Pod, From, To string
	// Namespace of either end.
	Namespace string
	Verdicts  []Verdict
	// Protocols are names out of [Protocols].
	Protocols []string
	// Port of either end; 0 is any.
	Port int
	// Node that saw it; the others are not asked.
	Node string
	// Types of events: trace, drop, policy-verdict, l7, trace-sock. A packet makes several.
	Types []string
	// All adds what says little: the verdict of a policy, which comes with the packet that it is
	// about, and packets of protocols that the network does not speak (every new pod asks a few
	// times for a router of IPv6, in vain).
	All bool
	// Since leaves out what is older.
	Since time.Time
	// Last is how many are wanted at most, the newest; 0 is all. When following: how many of
	// those that are there already, and 0 is none unless Since is set.
	Last int
}

// Protocols that a query may name.
var Protocols = []string{"tcp", "udp", "sctp", "icmp", "icmpv4", "icmpv6", "dns"}

// unspoken is the reason of drops that Query.All adds; number 139.
const unspoken = "UNSUPPORTED_L3_PROTOCOL"

// Check says what is wrong with a query.
func (q Query) Check() error {
	var errs []error
	for _, p := range []struct{ field, pod string }{{"pod", q.Pod}, {"from", q.From}, {"to", q.To}} {
		namespace, name, ok := strings.Cut(p.pod, "/")
		if p.pod != "" && (!ok || namespace == "" || strings.ContainsAny(p.pod, " ,*") || strings.Contains(name, "/")) {
			errs = append(errs, fmt.Errorf("%s is %q: want NAMESPACE/POD, such as messaging/nats-0,"+
				" or the beginning of a pod's name", p.field, p.pod))
		}
	}
	if strings.ContainsAny(q.Namespace, " ,/*") {
		errs = append(errs, fmt.Errorf("namespace is %q: want the name of one", q.Namespace))
	}
	for _, v := range q.Verdicts {
		if !slices.Contains(Verdicts, v) {
			errs = append(errs, fmt.Errorf("verdict is %q: want one of %v", v, Verdicts))
		}
	}
	for _, p := range q.Protocols {
		if !slices.Contains(Protocols, p) {
			errs = append(errs, fmt.Errorf("protocol is %q: want one of %v", p, Protocols))
		}
	}
	if q.Port < 0 || q.Port > 65535 {
		errs = append(errs, fmt.Errorf("port is %d: want 1 to 65535", q.Port))
	}
	if q.Last < 0 {
		errs = append(errs, fmt.Errorf("last is %d: want 0 or more", q.Last))
	}
	return errors.Join(errs...)
}

// args of `hubble observe` for one server.
func (q Query) args(server string, follow bool) []string {
	args := []string{"observe", "--server", server, "--output", "jsonpb", "--timeout", "10s"}
	add := func(flag, value string) {
		if value != "" {
			args = append(args, "--"+flag, value)
		}
	}
	add("pod", q.Pod)
	add("from-pod", q.From)
	add("to-pod", q.To)
	if q.Namespace != "" && q.Pod == "" && q.From == "" && q.To == "" { // else match does it: Hubble refuses both
		add("namespace", q.Namespace)
	}
	for _, v := range q.Verdicts {
		add("verdict", string(v))
	}
	for _, p := range q.Protocols {
		add("protocol", p)
	}
	for _, t := range q.Types {
		add("type", t)
	}
	if q.Port != 0 {
		add("port", strconv.Itoa(q.Port))
	}
	if !q.All {
		args = append(args, "--denylist", `{"event_type":[{"type":5}]}`, "--denylist", `{"drop_reason_desc":[139]}`)
	}
	switch {
	case !q.Since.IsZero():
		add("since", q.Since.UTC().Format(time.RFC3339Nano))
	case q.Last > 0:
		add("last", strconv.Itoa(q.Last))
	case !follow:
		args = append(args, "--all")
	}
	if follow {
		args = append(args, "--follow")
	}
	return args
}

// match judges what Hubble was not asked to: it takes dates by the second.
func (q Query) match(f Flow) bool {
	return (q.Since.IsZero() || !f.Time.Before(q.Since)) &&
		(q.Namespace == "" || f.Source.Namespace == q.Namespace || f.Destination.Namespace == q.Namespace)
}
