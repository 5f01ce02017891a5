package flow

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Peer is who speaks, as a person thinks of it: all pods of a workload are one.
type Peer struct {
	Namespace string // "" for what is no pod
	Name      string
}

// Peers that are no pods.
var (
	Nodes     = Peer{Name: "nodes"}          // processes of the machines, such as kubelets
	APIServer = Peer{Name: "kube-apiserver"} // of any server
	World     = Peer{Name: "world"}          // whatever is outside
	Unknown   = Peer{Name: "unknown"}        // addresses that have no owner (any more)
)

func (p Peer) String() string {
	if p.Namespace == "" {
		return p.Name
	}
	return p.Namespace + "/" + p.Name
}

// Edge is who speaks to whom.
type Edge struct {
	From, To Peer
	// Ports at To, with their protocol: "TCP 4222". The busiest first.
	Ports []string
	// Forwarded and Dropped are events a second over the window. An event is a packet, or the
	// sign of many that look alike: it tells more from less, not how many bytes.
	Forwarded, Dropped float64
	// Reasons of what was dropped, the most frequent first.
	Reasons []string
	// Seen last, and dropped last; the latter may be zero.
	Seen, DroppedAt time.Time
}

// Map keeps who speaks to whom. It is safe for use by several goroutines.
type Map struct {
	mu    sync.Mutex
	began time.Time
	edges map[[2]Peer]*traffic
}

const (
	slot  = 5 * time.Second
	slots = 12 // a minute
	// Window is the time over which rates are taken.
	Window = slot * slots
	// memory is how long an edge stays that is not seen any more, so that a picture does not jump.
	memory = 5 * time.Minute
	// mostEdges bounds a map; a cluster of dozens of workloads has some hundred.
	mostEdges = 2000
	// mostNames bounds ports and reasons of an edge.
	mostNames = 32
)

// traffic of an edge. The same packet is seen at several points on its way, and on each no
// more than once: the point with the most events tells how many there were.
type traffic struct {
	passed, dropped     map[string]*counter // by point, by reason
	ports               map[string]int
	reasons             map[string]int
	seenAt, lastDropped time.Time
}

// counter counts in slots of time.
type counter struct {
	count [slots]int
	at    int64 // number of the newest slot
}

func (c *counter) turn(now int64) {
	for ; c.at < now; c.at++ {
		if now-c.at > slots {
			c.at = now - slots
		}
		c.count[(c.at+1)%slots] = 0
	}
}

func (c *counter) add(now int64) {
	c.turn(now)
	if now > c.at-slots {
		c.count[now%slots]++
	}
}

func (c *counter) sum(now int64) (n int) {
	c.turn(now)
	for _, v := range c.count {
		n += v
	}
	return n
}

// NewMap is empty and begins now.
func NewMap(now time.Time) *Map { return &Map{began: now, edges: map[[2]Peer]*traffic{}} }

func slotOf(t time.Time) int64 { return t.UnixNano() / int64(slot) }

// MapTypes are the events that a map needs; see [Query].
var MapTypes = []string{"trace", "drop"}

// Add takes a flow into account. Left out are answers, which are part of what they answer, the
// agents' checks of each other, and protocols that the network does not speak.
func (m *Map) Add(f Flow) {
	if f.Reply || f.DropReason == unspoken || f.Verdict != Forwarded && f.Verdict != Dropped || f.Point == "policy-verdict" || f.Point == "l7" {
		return
	}
	from, ok := peer(f.Source)
	to, also := peer(f.Destination)
	if !ok || !also || from.Namespace == "" && to.Namespace == "" { // between machines: not ours
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if f.Time.Before(m.began) {
		m.began = f.Time
	}
	key := [2]Peer{from, to}
	t := m.edges[key]
	if t == nil {
		if len(m.edges) >= mostEdges {
			return
		}
		t = &traffic{passed: map[string]*counter{}, dropped: map[string]*counter{}, ports: map[string]int{}, reasons: map[string]int{}}
		m.edges[key] = t
	}
	if f.Time.After(t.seenAt) {
		t.seenAt = f.Time
	}
	if f.Destination.Port != 0 {
		bump(t.ports, f.Protocol+" "+strconv.Itoa(f.Destination.Port))
	} else if f.Protocol != "" {
		bump(t.ports, f.Protocol)
	}
	by, where := t.passed, f.Point+" "+string(f.Direction)
	if f.Verdict == Dropped {
		by, where = t.dropped, f.DropReason
		bump(t.reasons, f.DropReason)
		if f.Time.After(t.lastDropped) {
			t.lastDropped = f.Time
		}
	}
	c := by[where]
	if c == nil {
		if len(by) >= mostNames {
			return
		}
		c = &counter{at: slotOf(f.Time)}
		by[where] = c
	}
	c.add(slotOf(f.Time))
}

func bump(names map[string]int, name string) {
	if _, known := names[name]; known || len(names) < mostNames {
		names[name]++
	}
}

// Edges are those of the last minutes, in the order of their names. Edges that were not
// seen for [Window] have no rate.
func (m *Map) Edges(now time.Time) []Edge {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := slotOf(now)
	over := min(Window, max(slot, now.Sub(m.began))).Seconds()
	var all []Edge
	for key, t := range m.edges {
		if now.Sub(t.seenAt) > memory {
			delete(m.edges, key)
			continue
		}
		e := Edge{From: key[0], To: key[1], Seen: t.seenAt, DroppedAt: t.lastDropped, Ports: frequent(t.ports)}
		most := 0
		for _, c := range t.passed {
			most = max(most, c.sum(n))
		}
		lost := 0
		for _, c := range t.dropped {
			lost += c.sum(n)
		}
		e.Forwarded, e.Dropped = float64(most)/over, float64(lost)/over
		if lost > 0 {
			e.Reasons = frequent(t.reasons)
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b Edge) int {
		return cmp.Or(strings.Compare(a.From.String(), b.From.String()), strings.Compare(a.To.String(), b.To.String()))
	})
	return all
}

// frequent names first.
func frequent(names map[string]int) []string {
	var all []string
	for name := range names {
		all = append(all, name)
	}
	slices.SortFunc(all, func(a, b string) int { return cmp.Or(cmp.Compare(names[b], names[a]), strings.Compare(a, b)) })
	return all
}

// peer is whom an endpoint belongs to; false for those that are not shown.
func peer(e Endpoint) (Peer, bool) {
	switch {
	case e.Workload != "":
		return Peer{e.Namespace, e.Workload}, true
	case e.Pod != "":
		return Peer{e.Namespace, workloadOf(e)}, true
	}
	switch e.Reserved {
	case "health", "ingress":
		return Peer{}, false
	case "kube-apiserver":
		return APIServer, true
	case "host", "remote-node":
		return Nodes, true
	case "world", "world-ipv4", "world-ipv6":
		return World, true
	}
	return Unknown, true
}

// made is what controllers append to the names of what they make
// (k8s.io/apimachinery/pkg/util/rand): a Deployment by way of a ReplicaSet, a DaemonSet or a
// Job, a StatefulSet.
var made = regexp.MustCompile(`(-[bcdfghjklmnpqrstvwxz2456789]{6,10}-[bcdfghjklmnpqrstvwxz2456789]{5}|-[bcdfghjklmnpqrstvwxz2456789]{5}|-[0-9]+)$`)

// workloadOf a pod by its name: a node knows who made its own pods, but not those of others,
// and both ends must have the same name everywhere.
func workloadOf(e Endpoint) string {
	if name := made.ReplaceAllString(e.Pod, ""); name != "" {
		return name
	}
	return e.Pod
}
