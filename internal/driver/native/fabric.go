package native

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	bridgeName = "br0"
	fabricMTU  = 1500
	// fabricGSO is what a packet between nodes may have before it is cut to fabricMTU, which on a
	// fabric of memory is never: by default 64 KiB, with "big TCP" of a network (enable-ipv4-big-tcp
	// of Cilium, which has the same number) three times that. Linux before 6.3 knows no such thing.
	fabricGSO = 192 << 10
)

// fabric is the network between the nodes: a namespace with a bridge. The host's own
// network gets nothing from it.
type fabric struct {
	ns      *netNS
	handle  *netlink.Handle // in ns
	bridge  int             // link index
	cluster cluster

	mu       sync.Mutex
	standIns map[string]*netNS // by node, see standIn
}

func newFabric(c cluster) (*fabric, error) {
	ns, err := newNetNS()
	if err != nil {
		return nil, err
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink in the fabric: %w", err)
	}
	f := &fabric{ns: ns, handle: h, cluster: c, standIns: map[string]*netNS{}}
	if err := linkUp(h, "lo"); err != nil {
		return nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = bridgeName, fabricMTU
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if err := h.LinkAdd(bridge); err != nil {
		return nil, fmt.Errorf("add bridge %s: %w", bridgeName, err)
	}
	link, err := h.LinkByName(bridgeName)
	if err != nil {
		return nil, err
	}
	f.bridge = link.Attrs().Index
	address := &netlink.Addr{IPNet: &net.IPNet{IP: c.Gateway.AsSlice(), Mask: net.CIDRMask(c.Fabric.Bits(), 32)}}
	if err := h.AddrAdd(link, address); err != nil {
		return nil, fmt.Errorf("give %s to %s: %w", address, bridgeName, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return nil, err
	}
	// Pods' addresses are known behind their nodes only. What listens here answers them, too: Argo CD
	// reads what it applies from the mirror.
	for _, n := range c.Nodes {
		dst := &net.IPNet{IP: n.PodCIDR.Addr().AsSlice(), Mask: net.CIDRMask(n.PodCIDR.Bits(), 32)}
		if err := h.RouteAdd(&netlink.Route{Dst: dst, Gw: n.Address.AsSlice()}); err != nil {
			return nil, fmt.Errorf("route of the fabric to %s: %w", n.PodCIDR, err)
		}
	}
	return f, nil
}

// plug connects the namespace of a process to the bridge and gives it the node's address
// and routes. Addresses, also the link-layer one, are the same after every restart.
func (f *fabric) plug(n node, pid int, routes []route) error {
	ns, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/net")
	if err != nil {
		return err
	}
	defer ns.Close()
	return f.plugInto(n, ns, routes)
}

// plugInto connects a network namespace in place of whatever had the node's port.
func (f *fabric) plugInto(n node, ns *os.File, routes []route) error {
	f.mu.Lock()
	if old := f.standIns[n.Name]; old != nil {
		delete(f.standIns, n.Name)
		defer old.close()
	}
	f.mu.Unlock()
	port := fmt.Sprintf("n%d", n.Index)
	if old, err := f.handle.LinkByName(port); err == nil { // a killed node's namespace may still be going away
		if err := f.handle.LinkDel(old); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("remove old link %s: %w", port, err)
		}
	}
	a := n.Address.As4()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = port, fabricMTU, f.bridge
	attrs.GSOIPv4MaxSize, attrs.GROIPv4MaxSize = fabricGSO, fabricGSO
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns.Fd())),
		PeerHardwareAddr: net.HardwareAddr{0x02, 0x6f, a[0], a[1], a[2], a[3]},
	}
	if err := f.handle.LinkAdd(veth); err != nil {
		return fmt.Errorf("connect %s to the fabric: %w", n.Name, err)
	}
	if err := linkUp(f.handle, port); err != nil {
		return err
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(int(ns.Fd())), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink in %s: %w", n.Name, err)
	}
	defer h.Close()
	if err := linkUp(h, "lo"); err != nil {
		return err
	}
	eth, err := h.LinkByName("eth0")
	if err != nil {
		return err
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: n.Address.AsSlice(), Mask: net.CIDRMask(f.cluster.Fabric.Bits(), 32)}}
	if err := h.AddrAdd(eth, address); err != nil {
		return fmt.Errorf("give %s to %s: %w", address, n.Name, err)
	}
	if err := h.LinkSetUp(eth); err != nil {
		return err
	}
	if err := h.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: f.cluster.Gateway.AsSlice()}); err != nil {
		return fmt.Errorf("default route of %s: %w", n.Name, err)
	}
	for _, r := range routes {
		dst := &net.IPNet{IP: r.To.Addr().AsSlice(), Mask: net.CIDRMask(r.To.Bits(), 32)}
		add := &netlink.Route{LinkIndex: eth.Attrs().Index, Dst: dst, Gw: r.Via.AsSlice()}
		if !r.Via.IsValid() {
			add = &netlink.Route{Type: unix.RTN_UNREACHABLE, Dst: dst}
		}
		if err := h.RouteAdd(add); err != nil {
			return fmt.Errorf("route of %s to %s: %w", n.Name, r.To, err)
		}
	}
	return nil
}

// standIn answers at the address of a node that was stopped in good order: with "connection
// refused" for itself and "host unreachable" for its pods. Whoever asks for one of them, such as
// an API server for 'kubectl exec', is told at once, and does not wait until it gives up. A node
// that was killed has none: it is silent, like a machine without power.
func (f *fabric) standIn(n node, routes []route) error {
	ns, err := newNetNS()
	if err != nil {
		return err
	}
	err = ns.do(func() error {
		for name, value := range map[string]string{"icmp_ratelimit": "0", "ip_forward": "1", "conf/all/rp_filter": "0", "conf/default/rp_filter": "0"} {
			if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0o644); err != nil {
				return fmt.Errorf("sysctl net.ipv4.%s: %w", name, err)
			}
		}
		return nil
	})
	if err == nil {
		err = f.plugInto(n, ns.file, routes)
	}
	if err != nil {
		ns.close()
		return fmt.Errorf("answer for %s while it is stopped: %w", n.Name, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.standIns[n.Name] = ns
	return nil
}

func linkUp(h *netlink.Handle, name string) error {
	l, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	if err := h.LinkSetUp(l); err != nil {
		return fmt.Errorf("set link %s up: %w", name, err)
	}
	return nil
}

func (f *fabric) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, ns := range f.standIns {
		ns.close()
	}
	f.handle.Close()
	f.ns.close()
}
