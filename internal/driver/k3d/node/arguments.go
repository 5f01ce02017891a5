package node

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// arguments are the flags of k3s that mean something here, and those that ask for what is so anyway.
type arguments struct {
	server bool
	// clusterInit begins a cluster of several servers; a server without it and without a URL is alone.
	clusterInit            bool
	name                   string // of its Node; that of the container when it is empty
	sandbox                string // image of its pods' sandboxes
	labels, names          []string
	pods, services         netip.Prefix
	dns                    netip.Addr
	unconnected, unproxied bool
}

// absent are the parts of k3s that a node of ours does not have: disabling them is no wish.
var absent = []string{"coredns", "traefik", "servicelb", "local-storage", "metrics-server"}

// Values of flags that are not given, as k3s has them.
const (
	defaultPods     = "10.42.0.0/16"
	defaultServices = "10.43.0.0/16"
)

// parse reads what follows the program's name. Only what is understood is taken: a flag that was
// passed over would be believed to work.
func parse(args []string) (arguments, error) {
	var a arguments
	if len(args) == 0 || args[0] != "server" && args[0] != "agent" {
		return a, fmt.Errorf("want server or agent, and then flags; got %q", args)
	}
	a.server = args[0] == "server"
	a.pods, a.services = netip.MustParsePrefix(defaultPods), netip.MustParsePrefix(defaultServices)
	switches := map[string]func(){
		"cluster-init":           func() { a.clusterInit = true },
		"disable-network-policy": func() {}, // there is no such controller here
		"disable-kube-proxy":     func() { a.unproxied = true },
	}
	values := map[string]func(string) error{
		"node-name":             func(v string) error { a.name = v; return nil },
		"pause-image":           func(v string) error { a.sandbox = v; return nil },
		"node-label":            func(v string) error { a.labels = append(a.labels, v); return nil },
		"tls-san":               func(v string) error { a.names = append(a.names, v); return nil },
		"cluster-cidr":          func(v string) (err error) { a.pods, err = netip.ParsePrefix(v); return err },
		"service-cidr":          func(v string) (err error) { a.services, err = netip.ParsePrefix(v); return err },
		"cluster-dns":           func(v string) (err error) { a.dns, err = netip.ParseAddr(v); return err },
		"snapshotter":           only("overlayfs"),
		"write-kubeconfig-mode": func(string) error { return nil }, // only root is in the container
		"flannel-backend": func(v string) error {
			a.unconnected = v == "none"
			if v != "none" && v != "host-gw" {
				return errors.New("want none, or host-gw, which is what nodes of Orrery do by themselves")
			}
			return nil
		},
		"disable": func(v string) error {
			for part := range strings.SplitSeq(v, ",") {
				if !slices.Contains(absent, strings.TrimSpace(part)) {
					return fmt.Errorf("want some of %s", strings.Join(absent, ", "))
				}
			}
			return nil
		},
	}
	for rest := args[1:]; len(rest) > 0; {
		name, value, given := strings.Cut(rest[0], "=")
		rest = rest[1:]
		flag, isFlag := strings.CutPrefix(name, "--")
		if !isFlag {
			return a, fmt.Errorf("%q is no flag", name)
		}
		if turn, ok := switches[flag]; ok {
			if given && value != "true" {
				return a, fmt.Errorf("--%s: want nothing or =true", flag)
			}
			turn()
			continue
		}
		take, ok := values[flag]
		if !ok {
			all := slices.Sorted(maps.Keys(values))
			all = append(all, slices.Sorted(maps.Keys(switches))...)
			return a, fmt.Errorf("--%s means nothing to a node of Orrery, which knows --%s", flag, strings.Join(all, ", --"))
		}
		if !given {
			if len(rest) == 0 {
				return a, fmt.Errorf("--%s wants a value", flag)
			}
			value, rest = rest[0], rest[1:]
		}
		if err := take(value); err != nil {
			return a, fmt.Errorf("--%s %s: %w", flag, value, err)
		}
	}
	a.pods, a.services = a.pods.Masked(), a.services.Masked()
	if !a.pods.Addr().Is4() || !a.services.Addr().Is4() || a.pods.Overlaps(a.services) {
		return a, fmt.Errorf("addresses of pods %s and Services %s: want two IPv4 ranges apart from each other", a.pods, a.services)
	}
	if !a.dns.IsValid() { // the tenth of the range, as everywhere
		a.dns = a.services.Addr()
		for range 10 {
			a.dns = a.dns.Next()
		}
	}
	return a, nil
}

func only(want string) func(string) error {
	return func(v string) error {
		if v != want {
			return fmt.Errorf("there is only %s", want)
		}
		return nil
	}
}

// place takes zone and rack out of the labels, which nodes always have; without one, the name of the
// node is its zone.
func (a arguments) place(name string) (zone, rack string, rest []string) {
	zone, rack = name, name
	for _, l := range a.labels {
		switch k, v, _ := strings.Cut(l, "="); k {
		case "topology.kubernetes.io/zone":
			zone = v
		case "rack":
			rack = v
		default:
			rest = append(rest, l)
		}
	}
	return zone, rack, rest
}

// joinHost is the server of K3S_URL.
func joinHost(raw string) (string, error) {
	if raw == "" {
		return "", nil
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" {
		return "", fmt.Errorf("K3S_URL %q: want https://HOST:PORT", raw)
	}
	return u.Hostname(), nil
}
