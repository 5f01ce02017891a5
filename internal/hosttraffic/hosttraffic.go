// Package hosttraffic has the one rule of a node that its Cilium agent needs and BPF cannot give. It
// imports nothing: nodes and images of agents carry it.
package hosttraffic

// Rules for nft mark the packets of the node's own processes. BPF programs know by the mark that
// a packet comes from the node, such as a probe of the kubelet, and let it through to its pods;
// all others count as from the outside world. Packets that carry another of the agent's marks
// (lib/common.h of the programs) are left alone. The agent would do the same with iptables. What
// an earlier start left is replaced.
const Rules = `table ip orrery
delete table ip orrery
table ip orrery {
	chain output {
		type filter hook output priority filter; policy accept;
		meta mark and 0x0f00 != { 0x0400, 0x0800, 0x0900, 0x0a00, 0x0b00, 0x0d00, 0x0e00 } meta mark set meta mark and 0xfffff0ff or 0x0c00
	}
}
`
