package spec

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
)

// Roles of a [Node].
const (
	RoleServer = "server" // control plane and workloads
	RoleAgent  = "agent"  // workloads only
)

// racksPerZone is how many racks the nodes of one zone are spread over.
const racksPerZone = 2

// firstNode is the distance of the first node's address from the gateway.
const firstNode = 10

// Node is one machine of the environment's topology.
type Node struct {
	Name    string       // server1…, agent1…
	Role    string       // RoleServer or RoleAgent
	Zone    string       // topology.kubernetes.io/zone
	Rack    string       // rack: "<zone>-<n>"
	Address netip.Addr   // on the fabric; the same for the life of the environment
	PodCIDR netip.Prefix // a /24 of the pods' range
	Index   int          // 1-based over servers, then agents
}

// AgentCount is the number of agents: the default when none is stated.
func (e Environment) AgentCount() int {
	if e.Agents == nil {
		return 2
	}
	return *e.Agents
}

// Topology lists the nodes, servers first. Everything about a node is a function of
// its index, so a restart or a reboot finds the same addresses. e must be valid.
func (e Environment) Topology() []Node {
	nodes := make([]Node, 0, e.Servers+e.AgentCount())
	gateway := e.Gateway()
	pods, _ := netip.ParsePrefix(e.Network.Pods)
	add := func(role string, n int) {
		i := len(nodes)
		zone := e.Zones[i%len(e.Zones)]
		nodes = append(nodes, Node{
			Name:    fmt.Sprintf("%s%d", role, n),
			Role:    role,
			Zone:    zone,
			Rack:    fmt.Sprintf("%s-%d", zone, i/len(e.Zones)%racksPerZone+1),
			Address: offset(gateway, firstNode+i),
			PodCIDR: netip.PrefixFrom(offset(pods.Addr(), i<<8), 24),
			Index:   i + 1,
		})
	}
	for n := 1; n <= e.Servers; n++ {
		add(RoleServer, n)
	}
	for n := 1; n <= e.AgentCount(); n++ {
		add(RoleAgent, n)
	}
	return nodes
}

// Gateway is the first address of the fabric. The load balancer and the registry
// mirror listen on it; node i has Gateway + 9 + i.
func (e Environment) Gateway() netip.Addr { return e.at(e.Network.Nodes, 1) }

// ClusterDNS is the tenth address of the services' range.
func (e Environment) ClusterDNS() netip.Addr { return e.at(e.Network.Services, 10) }

// APIServiceIP is the first address of the services' range: what the Service
// "kubernetes" gets, and a name in the API servers' certificates.
func (e Environment) APIServiceIP() netip.Addr { return e.at(e.Network.Services, 1) }

// MemoryBytes is what each node reports, or 0 for the host's memory.
func (e Environment) MemoryBytes() int64 {
	b, _ := parseQuantity(e.Node.Memory)
	return b
}

func (e Environment) at(cidr string, n int) netip.Addr {
	p, err := netip.ParsePrefix(cidr)
	if err != nil || !p.Addr().Is4() {
		return netip.Addr{}
	}
	return offset(p.Masked().Addr(), n)
}

func offset(a netip.Addr, n int) netip.Addr {
	if !a.Is4() {
		return netip.Addr{}
	}
	b := a.As4()
	v := uint64(binary.BigEndian.Uint32(b[:])) + uint64(n)
	if v > math.MaxUint32 {
		return netip.Addr{}
	}
	binary.BigEndian.PutUint32(b[:], uint32(v))
	return netip.AddrFrom4(b)
}
