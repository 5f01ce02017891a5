package console

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Health of anything, in words that the page shows.
type Health string

const (
	Good     Health = "ready"
	Starting Health = "starting" // on its way, or not quite there
	Failing  Health = "failing"
	Done     Health = "done"    // ran to its end
	Off      Health = "stopped" // on purpose, or left out
)

// Snapshot is what the environment looks like at one time.
type Snapshot struct {
	Environment string
	Phase       string // running | partial | stopped | absent
	Note        string // what a person must know of the whole, such as its durability
	Nodes       []Node
	Pending     []Pod // on no node
	Components  []Component
	Endpoints   []Endpoint
	Alerts      []Alert
	// AlertsUnknown says why nothing is known about alerts; "" when it is.
	AlertsUnknown string
}

// Node and the pods on it.
type Node struct {
	Name, Role, Zone, Rack, Address string
	Health                          Health
	State                           string // ready | not ready | down | stopped
	Pods                            []Pod
	CPU, Memory                     Usage
}

// Usage of a resource, as a share of what there is; Known is false where nobody measures.
type Usage struct {
	Known bool
	Share float64
	Text  string
}

// Pod as the picture shows it.
type Pod struct {
	Namespace, Name string
	Health          Health
	Reason          string
	Restarts        int
}

// Component of the platform.
type Component struct {
	Name, Namespace, Reason string
	Health                  Health
}

// Endpoint is an address, or a command that makes one.
type Endpoint struct {
	Name, Address string
	Link          bool // the address can be opened in a browser
	Command       bool // the address is a command
}

// Alert that is pending or firing.
type Alert struct {
	Name, Severity, State, Summary, Runbook string
	Labels                                  string
	Since                                   time.Time
}

// Check is one result of verification.
type Check struct {
	Component, Name string
	State           string // succeeded | failed | skipped | running
	Detail          string
	Seconds         float64
	At              time.Time // of an earlier result: when the check ended
}

type zone struct {
	Name  string
	Nodes []Node
}

// zones of the nodes, by name; servers before agents.
func (s Snapshot) zones() []zone {
	var zones []zone
	nodes := slices.Clone(s.Nodes)
	slices.SortStableFunc(nodes, func(a, b Node) int {
		return cmp.Or(cmp.Compare(a.Zone, b.Zone), -cmp.Compare(a.Role, b.Role), cmp.Compare(a.Name, b.Name))
	})
	for _, n := range nodes {
		if len(zones) == 0 || zones[len(zones)-1].Name != n.Zone {
			zones = append(zones, zone{Name: n.Zone})
		}
		last := &zones[len(zones)-1]
		last.Nodes = append(last.Nodes, n)
	}
	return zones
}

// worst is what a person should see first.
func (s Snapshot) worst() Health {
	worst := Good
	raise := func(h Health) {
		if h == Failing || (h == Starting && worst != Failing) {
			worst = h
		}
	}
	for _, n := range s.Nodes {
		if n.Health == Off {
			raise(Starting)
		}
		raise(n.Health)
		for _, p := range n.Pods {
			raise(p.Health)
		}
	}
	for _, c := range s.Components {
		raise(c.Health)
	}
	for _, a := range s.Alerts {
		if a.State == "firing" && a.Severity == "critical" {
			raise(Failing)
		} else if a.State == "firing" && a.Severity != "none" && a.Severity != "info" {
			raise(Starting)
		}
	}
	if len(s.Pending) > 0 {
		raise(Starting)
	}
	switch s.Phase {
	case "stopped", "absent":
		return Off
	}
	return worst
}

// headline is the state of everything in one sentence.
func (s Snapshot) headline() string {
	switch s.Phase {
	case "absent":
		return "There is no such environment."
	case "stopped":
		return "The environment is stopped."
	}
	nodes, parts, starting, failing := 0, 0, 0, 0
	for _, n := range s.Nodes {
		if n.Health == Good {
			nodes++
		}
		for _, p := range n.Pods {
			switch p.Health {
			case Starting:
				starting++
			case Failing:
				failing++
			}
		}
	}
	wanted := 0
	for _, c := range s.Components {
		if c.Health == Good {
			parts++
		}
		if c.Health != Off { // left out, with a reason
			wanted++
		}
	}
	rules := map[string]bool{} // one that fires for many volumes is one thing to look at
	for _, a := range s.Alerts {
		if a.State == "firing" && a.Severity != "none" {
			rules[a.Name] = true
		}
	}
	firing := len(rules)
	var wrong []string
	if nodes < len(s.Nodes) {
		wrong = append(wrong, plural(len(s.Nodes)-nodes, "node is", "nodes are")+" not ready")
	}
	if parts < wanted {
		wrong = append(wrong, plural(wanted-parts, "component is", "components are")+" not ready")
	}
	if len(s.Pending) > 0 {
		wrong = append(wrong, plural(len(s.Pending), "pod waits", "pods wait")+" for a node")
	}
	if failing > 0 {
		wrong = append(wrong, plural(failing, "pod fails", "pods fail"))
	}
	if starting > 0 && len(wrong) == 0 {
		wrong = append(wrong, plural(starting, "pod is", "pods are")+" starting")
	}
	if firing > 0 {
		wrong = append(wrong, plural(firing, "alert fires", "alerts fire"))
	}
	if len(wrong) > 0 {
		text := strings.Join(wrong, ", ")
		if i := strings.LastIndex(text, ", "); i > 0 {
			text = text[:i] + " and " + text[i+2:]
		}
		return strings.ToUpper(text[:1]) + text[1:] + "."
	}
	if len(s.Components) == 0 {
		return "All " + plural(nodes, "node is", "nodes are") + " ready."
	}
	return "All " + plural(nodes, "node", "nodes") + " and " + plural(parts, "component", "components") + " are ready."
}

// count writes a number in digits, plural one in words, as sentences have them.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return itoa(n) + " " + many
}

var numerals = []string{"no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"}

func plural(n int, one, many string) string {
	word := many
	if n == 1 {
		word = one
	}
	if n >= 0 && n < len(numerals) {
		return numerals[n] + " " + word
	}
	return itoa(n) + " " + word
}
