package native

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/proc"
)

const (
	ipForward  = "/proc/sys/net/ipv4/ip_forward"
	uplinkName = "up0" // in the fabric
)

// egress is the way out of the fabric: a link to the host and address translation on both
// of its ends, so that the host learns no route to nodes or pods.
type egress struct {
	table string // nftables, on the host
	link  string // on the host
	host  netip.Prefix
	inner netip.Prefix // of the fabric's end
}

// egressOf derives names and addresses from the environment's name. Two environments
// collide once in 16,000; the second then fails to start and says so.
func egressOf(env string) egress {
	h := fnv.New32a()
	_, _ = h.Write([]byte(env))
	n := h.Sum32() % (254 * 64)
	base := netip.AddrFrom4([4]byte{169, 254, byte(1 + n/64), byte(n % 64 * 4)}) // link-local, a /30 each
	if base.As4()[2] == 169 {                                                    // cloud providers' metadata lives at 169.254.169.254
		base = netip.AddrFrom4([4]byte{169, 254, 255, base.As4()[3]})
	}
	host := base.Next()
	return egress{
		table: "orrery-" + env, link: fmt.Sprintf("orr-%08x", h.Sum32()),
		host: netip.PrefixFrom(host, 30), inner: netip.PrefixFrom(host.Next(), 30),
	}
}

func nft(ctx context.Context, script string) error {
	path, err := proc.Look("nft")
	if err != nil {
		return err
	}
	return proc.Run(ctx, &proc.Cmd{Path: path, Args: []string{"-f", "-"}, Stdin: strings.NewReader(script)})
}

// makeEgress changes the host: forwarding on, and a table that translates what comes out
// of the fabric. The supervisor lays the link.
func (d *Driver) makeEgress(ctx context.Context) error {
	if !d.cluster.Egress {
		return nil
	}
	e := egressOf(d.cluster.Environment)
	before, err := os.ReadFile(ipForward)
	if err != nil {
		return err
	}
	if _, known := d.egressEffect(); !known {
		err := d.options.Journal.Begin(driver.Effect{Kind: "egress", ID: e.table, Info: map[string]string{"link": e.link, "ip_forward": strings.TrimSpace(string(before))}})
		if err != nil {
			return fmt.Errorf("journal: %w", err)
		}
	}
	if strings.TrimSpace(string(before)) != "1" {
		if err := os.WriteFile(ipForward, []byte("1"), 0o644); err != nil {
			return fmt.Errorf("let the host forward packets: %w", err)
		}
	}
	if err := nft(ctx, e.rules(hostNameservers())); err != nil {
		return fmt.Errorf("translate addresses of the environment: %w", err)
	}
	return nil
}

// egressEffect is what the journal knows of a way out.
func (d *Driver) egressEffect() (driver.Effect, bool) {
	j, ok := d.options.Journal.(interface{ Live() []driver.Effect })
	if !ok {
		return driver.Effect{}, false
	}
	for _, e := range j.Live() {
		if e.Kind == "egress" {
			return e, true
		}
	}
	return driver.Effect{}, false
}

// undoEgress leaves the host as it was. Forwarding stays on while another environment needs it.
func (d *Driver) undoEgress(ctx context.Context) error {
	effect, known := d.egressEffect()
	if !known && !d.cluster.Egress {
		return nil
	}
	e := egressOf(d.cluster.Environment)
	var errs []error
	if l, err := netlink.LinkByName(e.link); err == nil {
		errs = append(errs, netlink.LinkDel(l))
	}
	tables, err := nftTables(ctx)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	others := false
	for _, t := range tables {
		if t == e.table {
			errs = append(errs, nft(ctx, "delete table ip "+t+"\n"))
		} else if strings.HasPrefix(t, "orrery-") {
			others = true
		}
	}
	if known && effect.Info["ip_forward"] == "0" && !others {
		errs = append(errs, os.WriteFile(ipForward, []byte("0"), 0o644))
	}
	if err := errors.Join(errs...); err != nil || !known {
		return err
	}
	return d.options.Journal.Undone(effect)
}

// nftTables lists the host's IPv4 tables.
func nftTables(ctx context.Context) ([]string, error) {
	path, err := proc.Look("nft")
	if err != nil {
		return nil, err
	}
	var out strings.Builder
	if err := proc.Run(ctx, &proc.Cmd{Path: path, Args: []string{"list", "tables", "ip"}, Stdout: &out}); err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(out.String()) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "table" {
			names = append(names, f[2])
		}
	}
	return names, nil
}

// egressLeaks finds what is left of a way out.
func (d *Driver) egressLeaks(ctx context.Context) ([]string, error) {
	e := egressOf(d.cluster.Environment)
	var leaks []string
	if _, err := netlink.LinkByName(e.link); err == nil {
		leaks = append(leaks, "link "+e.link)
	}
	if _, err := proc.Look("nft"); err != nil || os.Geteuid() != 0 {
		return leaks, nil // then there can be no table of ours, or nobody can tell
	}
	tables, err := nftTables(ctx)
	for _, t := range tables {
		if t == e.table {
			leaks = append(leaks, "nftables table "+t)
		}
	}
	return leaks, err
}

// connectOut links the fabric to the host. Both ends go with the fabric's namespace.
func (f *fabric) connectOut(ctx context.Context) error {
	e := egressOf(f.cluster.Environment)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = uplinkName, fabricMTU
	hostNS, err := netns.Get()
	if err != nil {
		return err
	}
	defer func() { _ = hostNS.Close() }()
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: e.link, PeerNamespace: netlink.NsFd(int(hostNS))}
	if err := f.handle.LinkAdd(veth); err != nil {
		return fmt.Errorf("link %s to the host: %w", e.link, err)
	}
	h, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer h.Close()
	for _, end := range []struct {
		handle *netlink.Handle
		name   string
		addr   netip.Prefix
	}{{f.handle, uplinkName, e.inner}, {h, e.link, e.host}} {
		l, err := end.handle.LinkByName(end.name)
		if err != nil {
			return err
		}
		a := &netlink.Addr{IPNet: &net.IPNet{IP: end.addr.Addr().AsSlice(), Mask: net.CIDRMask(end.addr.Bits(), 32)}}
		if err := end.handle.AddrAdd(l, a); err != nil {
			return fmt.Errorf("give %s to %s: %w", end.addr, end.name, err)
		}
		if err := end.handle.LinkSetUp(l); err != nil {
			return err
		}
	}
	if err := f.handle.RouteAdd(&netlink.Route{Gw: e.host.Addr().AsSlice()}); err != nil {
		return fmt.Errorf("default route of the fabric: %w", err)
	}
	// Pods' addresses are known behind their nodes only.
	for _, n := range f.cluster.Nodes {
		dst := &net.IPNet{IP: n.PodCIDR.Addr().AsSlice(), Mask: net.CIDRMask(n.PodCIDR.Bits(), 32)}
		if err := f.handle.RouteAdd(&netlink.Route{Dst: dst, Gw: n.Address.AsSlice()}); err != nil {
			return fmt.Errorf("route of the fabric to %s: %w", n.PodCIDR, err)
		}
	}
	return f.ns.do(func() error {
		if err := os.WriteFile(ipForward, []byte("1"), 0o644); err != nil {
			return fmt.Errorf("let the fabric forward packets: %w", err)
		}
		return nft(ctx, fmt.Sprintf(`table ip orrery {
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		oifname "%s" masquerade
	}
}
`, uplinkName))
	})
}
