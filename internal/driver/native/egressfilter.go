package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/proc"
)

// rules of the host for what comes out of the fabric: addresses are translated, and the way
// leads past the host, not to it. Its own services, which may trust whoever is near, and
// link-local addresses, such as those that tell a cloud machine its credentials, are refused;
// resolvers that nodes were told of are not.
func (e egress) rules(resolvers []netip.Addr, before string) string {
	var names strings.Builder
	for _, r := range resolvers {
		fmt.Fprintf(&names, "\t\tip daddr %s udp dport 53 accept\n\t\tip daddr %[1]s tcp dport 53 accept\n", r)
	}
	// "add" before "delete" makes the delete succeed in either case, and the whole is one transaction.
	return fmt.Sprintf(`add table ip %[1]s
delete table ip %[1]s
table ip %[1]s {
	chain %[5]s {
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr %[2]s oifname != "%[3]s" masquerade
	}
	chain input {
		type filter hook input priority filter; policy accept;
		iifname != "%[3]s" accept
		ct state established,related accept
%[4]s		reject with icmp type admin-prohibited
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname != "%[3]s" accept
%[4]s		ip daddr { 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/4 } reject with icmp type admin-prohibited
	}
}
`, e.table, e.inner.Masked(), e.link, names.String(), forwardedBefore+before)
}

// egressProbes look at what a way out needs of the host.
func (d *Driver) egressProbes() []probe {
	if !d.cluster.Egress {
		return nil
	}
	return []probe{{"resolver", d.checkResolver}, {"forwarding", d.checkForwarding}}
}

func (d *Driver) checkResolver(context.Context) check.Result {
	r := d.host.resolvers()
	if len(r) == 0 {
		return check.Fail(errors.New("network.egress is true, and /etc/resolv.conf names no resolver that nodes can reach: " +
			"one on loopback (127.0.0.1) answers this machine only, and nodes have no IPv6. Name another there, or set network.egress to false"))
	}
	return check.OK("nodes ask %s for names of the world", r[0])
}

func (d *Driver) checkForwarding(ctx context.Context) check.Result {
	e := egressOf(d.cluster.Environment)
	drops, err := d.host.forwardDrops(ctx, e.link)
	if err != nil {
		return check.Skip("cannot list the host's packet filters: %v", err)
	}
	if len(drops) > 0 {
		return check.Fail(
			fmt.Errorf(
				"network.egress is true, but a packet filter of this host drops what it would forward (Docker sets one up, for example); let the environment's link through: %s",
				strings.Join(drops, "; "),
			),
		)
	}
	return check.OK("no packet filter of the host drops what it forwards")
}

// forwardDrops finds chains that drop what is forwarded and have no rule for link. Each is
// described by the commands that add one.
func forwardDrops(ctx context.Context, link string) ([]string, error) {
	path, err := proc.Look("nft")
	if err != nil {
		return nil, err
	}
	var out strings.Builder
	if err := proc.Run(ctx, &proc.Cmd{Path: path, Args: []string{"-j", "list", "ruleset"}, Stdout: &out}); err != nil {
		return nil, err
	}
	drops, err := parseForwardDrops([]byte(out.String()), link)
	if err != nil {
		return nil, err
	}
	// Rules of the older kernel interface are not in nftables.
	legacy, err := proc.Look("iptables-legacy")
	if errors.Is(err, exec.ErrNotFound) {
		return drops, nil
	}
	out.Reset()
	if err := proc.Run(ctx, &proc.Cmd{Path: legacy, Args: []string{"-S"}, Stdout: &out}); err != nil {
		return drops, nil //nolint:nilerr // the kernel has no such interface
	}
	return append(drops, legacyForwardDrops(out.String(), link)...), nil
}

func parseForwardDrops(ruleset []byte, link string) ([]string, error) {
	var all struct {
		Objects []struct {
			Chain *struct {
				Family, Table, Name, Hook, Policy string
			} `json:"chain"`
			Rule *struct {
				Family, Table string
				Expr          json.RawMessage `json:"expr"`
			} `json:"rule"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal(ruleset, &all); err != nil {
		return nil, fmt.Errorf("nft -j list ruleset: %w", err)
	}
	var known []string // tables that let the link through
	for _, o := range all.Objects {
		if r := o.Rule; r != nil && strings.Contains(string(r.Expr), `"`+link+`"`) && strings.Contains(string(r.Expr), `"accept"`) {
			known = append(known, r.Family+" "+r.Table)
		}
	}
	var drops []string
	for _, o := range all.Objects {
		c := o.Chain
		if c == nil || c.Hook != "forward" || c.Policy != "drop" || c.Family != "ip" && c.Family != "inet" ||
			slices.Contains(known, c.Family+" "+c.Table) {
			continue
		}
		for _, side := range []string{"iifname", "oifname"} {
			drops = append(drops, fmt.Sprintf("nft insert rule %s %s %s %s %s accept", c.Family, c.Table, c.Name, side, link))
		}
	}
	return drops, nil
}

func legacyForwardDrops(rules, link string) []string {
	if !strings.Contains(rules, "-P FORWARD DROP") || strings.Contains(rules, " "+link+" -j ACCEPT") {
		return nil
	}
	return []string{"iptables-legacy -I FORWARD -i " + link + " -j ACCEPT", "iptables-legacy -I FORWARD -o " + link + " -j ACCEPT"}
}
