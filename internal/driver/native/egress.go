package native

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/filelock"
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

// forwardedBefore begins the name of an empty chain in the table of each environment with a way
// out: whether the host forwarded packets before the first of them. So those who overlap know
// it from each other, whoever ends last restores it, and a restart of the machine forgets it.
const forwardedBefore = "ip_forward_was_"

var chainOfRecord = regexp.MustCompile(`chain ` + forwardedBefore + `([01]) `)

// egressLock keeps those apart who change or restore the host's forwarding.
var egressLock = "/run/orrery-egress.lock"

// withEgressLock leaves no file.
func withEgressLock(ctx context.Context, do func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	held, err := filelock.Wait(ctx, egressLock, filelock.Exclusive, nil)
	if err != nil {
		return fmt.Errorf("the lock on the host's forwarding: %w", err)
	}
	defer held.Close()
	return errors.Join(do(), os.Remove(egressLock))
}

// makeEgress changes the host: forwarding on, and a table that translates what comes out
// of the fabric. The supervisor lays the link.
func (d *Driver) makeEgress(ctx context.Context) error {
	if !d.cluster.Egress {
		return nil
	}
	return withEgressLock(ctx, func() error { return d.makeEgressLocked(ctx) })
}

func (d *Driver) makeEgressLocked(ctx context.Context) error {
	e := egressOf(d.cluster.Environment)
	b, err := os.ReadFile(ipForward)
	if err != nil {
		return err
	}
	before := strings.TrimSpace(string(b))
	tables, err := nftTables(ctx)
	if err != nil {
		return err
	}
	for _, t := range tables {
		if was := recordOf(ctx, t); was != "" {
			before = was
			break
		}
	}
	err = d.options.Journal.Begin(driver.Effect{Kind: "egress", ID: e.table, Info: map[string]string{"link": e.link, "ip_forward": before, "boot": bootID()}})
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := nft(ctx, e.rules(hostNameservers(), before)); err != nil {
		return fmt.Errorf("translate addresses of the environment: %w", err)
	}
	if strings.TrimSpace(string(b)) != "1" {
		if err := os.WriteFile(ipForward, []byte("1"), 0o644); err != nil {
			return fmt.Errorf("let the host forward packets: %w", err)
		}
	}
	return nil
}

// recordOf is "0" or "1", as the table of an environment has it; "" when it is none or has none.
func recordOf(ctx context.Context, table string) string {
	if !strings.HasPrefix(table, "orrery-") {
		return ""
	}
	path, err := proc.Look("nft")
	if err != nil {
		return ""
	}
	var out strings.Builder
	if proc.Run(ctx, &proc.Cmd{Path: path, Args: []string{"list", "table", "ip", table}, Stdout: &out}) != nil {
		return ""
	}
	if m := chainOfRecord.FindStringSubmatch(out.String()); m != nil {
		return m[1]
	}
	return ""
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
	return withEgressLock(ctx, func() error { return d.undoEgressLocked(ctx, effect, known) })
}

func (d *Driver) undoEgressLocked(ctx context.Context, effect driver.Effect, known bool) error {
	e := egressOf(d.cluster.Environment)
	var errs []error
	if l, err := netlink.LinkByName(e.link); err == nil {
		errs = append(errs, netlink.LinkDel(l))
	}
	before := recordOf(ctx, e.table)
	// Somebody may have flushed all tables. What was before a restart of the machine says nothing.
	if boot := effect.Info["boot"]; before == "" && known && (boot == "" || boot == bootID()) {
		before = effect.Info["ip_forward"]
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
	if before == "0" && !others {
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
