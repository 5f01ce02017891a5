package native

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/orrery-dev/orrery/internal/check"
)

// allotted is ptp for nodes whose ranges of pod addresses the controller manager hands out, and
// that find each other in the API.
type allotted struct {
	ptp
	unconnected, unproxied bool
}

const cniFile = "cni/net.d/10-orrery.conflist"

func (a allotted) files(c cluster, n node) (map[string][]byte, error) {
	files, err := a.ptp.files(c, n)
	if !n.PodCIDR.IsValid() || a.unconnected {
		delete(files, cniFile)
	}
	return files, err
}

func (a allotted) services(c cluster, n node) []service {
	if a.unproxied {
		return nil
	}
	return a.ptp.services(c, n)
}

func (a allotted) controllerFlags(c cluster) []string {
	return []string{"--allocate-node-cidrs=true", "--cluster-cidr=" + c.Pods.String()}
}

// routeProtocol marks routes of ours, so that what an earlier run laid is known.
const routeProtocol = 79

// follow keeps routes to the pods of all nodes for as long as ctx lives, and writes the node's own
// network when the API has given it a range. registered is closed when it has its Node.
func (c Contained) follow(ctx context.Context, p paths, all contained, registered chan<- struct{}) error {
	client, err := c.asProxy(p)
	if err != nil {
		return err
	}
	n, _ := all.node(c.Name)
	base := apiURL(all.cluster, n)
	told := false
	return followNodes(ctx, client, base, func(nodes []listedNode) error {
		range_, err := layRoutes(nodes, c.Name, all.Pods, all.Unconnected)
		if err != nil {
			c.Log.Warn("routes to the pods of other nodes", "error", err)
			return err
		}
		if range_.IsValid() && range_ != n.PodCIDR {
			n.PodCIDR = range_
			all.Nodes = append(others(all.Nodes, c.Name), n)
			if err := c.write(p, all); err != nil {
				return err
			}
		}
		for _, have := range nodes {
			if have.Metadata.Name == c.Name && !told {
				told = true
				close(registered)
			}
		}
		return nil
	})
}

// followNodes tells of all nodes, and again whenever one of them is not what it was, for as long as
// ctx lives.
func followNodes(ctx context.Context, client *http.Client, base string, seen func([]listedNode) error) error {
	return check.Until(ctx, check.Pause{First: 300 * time.Millisecond, Most: 2 * time.Second}, func() error {
		for {
			list, err := nodesOf(ctx, client, base)
			if err == nil {
				err = seen(list.Items)
			}
			if err == nil {
				err = watchNodes(ctx, client, base, list.Metadata.ResourceVersion)
			}
			if err != nil {
				return err
			}
		}
	})
}

// asProxy is a client with what kube-proxy may: see all nodes. A kubelet may only see its own.
func (c Contained) asProxy(p paths) (*http.Client, error) {
	at := func(name string) string { return p.nodeEtc(c.Name, "kubernetes", "pki", name) }
	pair, err := tls.LoadX509KeyPair(at("kube-proxy.crt"), at("kube-proxy.key"))
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(at("ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:       &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS12},
		ResponseHeaderTimeout: 20 * time.Second,
	}}, nil
}

// listedNode is what routes need of a Node.
type listedNode struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		PodCIDR string `json:"podCIDR"`
	} `json:"spec"`
	Status struct {
		Addresses []struct {
			Type    string `json:"type"`
			Address string `json:"address"`
		} `json:"addresses"`
	} `json:"status"`
}

func (n listedNode) address() netip.Addr {
	for _, a := range n.Status.Addresses {
		if a.Type == "InternalIP" {
			if ip, err := netip.ParseAddr(a.Address); err == nil {
				return ip
			}
		}
	}
	return netip.Addr{}
}

type nodeList struct {
	Metadata struct {
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	Items []listedNode `json:"items"`
}

func nodesOf(ctx context.Context, client *http.Client, base string) (nodeList, error) {
	var list nodeList
	r, err := getFrom(ctx, client, base+"/api/v1/nodes")
	if err != nil {
		return list, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, 32<<20))
	if err != nil {
		return list, err
	}
	return list, json.Unmarshal(b, &list)
}

// watchNodes returns when a Node is not what it was.
func watchNodes(ctx context.Context, client *http.Client, base, version string) error {
	r, err := getFrom(ctx, client, base+"/api/v1/nodes?watch=true&timeoutSeconds=300&resourceVersion="+version)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = r.Read(make([]byte, 1))
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func getFrom(ctx context.Context, client *http.Client, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	r, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if r.StatusCode != http.StatusOK {
		defer r.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(r.Body, 300))
		return nil, &statusError{r.StatusCode, string(text)}
	}
	return r.Body, nil
}

// wantedRoutes are by destination; the invalid address refuses what is left of the node's own range.
// What a node says of itself is no way to other addresses than those of pods.
func wantedRoutes(nodes []listedNode, self string, pods netip.Prefix) (routes map[netip.Prefix]netip.Addr, own netip.Prefix) {
	routes = map[netip.Prefix]netip.Addr{}
	for _, n := range nodes {
		to, err := netip.ParsePrefix(n.Spec.PodCIDR)
		if err != nil || to.Bits() < pods.Bits() || !pods.Contains(to.Addr()) {
			continue
		}
		if n.Metadata.Name == self {
			own = to
			routes[to] = netip.Addr{}
		} else if via := n.address(); via.IsValid() {
			routes[to] = via
		}
	}
	return routes, own
}

// layRoutes makes the routes of this network namespace what nodes want, and returns the range of self.
func layRoutes(nodes []listedNode, self string, pods netip.Prefix, none bool) (netip.Prefix, error) {
	want, own := wantedRoutes(nodes, self, pods)
	if none {
		return own, nil
	}
	have, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return own, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range have {
		if r.Dst == nil {
			continue
		}
		ones, _ := r.Dst.Mask.Size()
		ip, _ := netip.AddrFromSlice(r.Dst.IP.To4())
		if _, wanted := want[netip.PrefixFrom(ip, ones)]; !wanted {
			if err := netlink.RouteDel(&r); err != nil {
				return own, fmt.Errorf("remove the route to %s: %w", r.Dst, err)
			}
		}
	}
	for to, via := range want {
		r := &netlink.Route{Dst: &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), 32)}, Protocol: routeProtocol}
		if via.IsValid() {
			r.Gw = via.AsSlice()
		} else {
			r.Type = unix.RTN_UNREACHABLE
		}
		if err := netlink.RouteReplace(r); err != nil {
			return own, fmt.Errorf("route to %s by %s: %w", to, via, err)
		}
	}
	return own, nil
}
