package native

import (
	"bufio"
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/orrery-dev/orrery/internal/proc"
	"github.com/orrery-dev/orrery/internal/spec"
)

func TestForwardDrops(t *testing.T) {
	const docker = `{"nftables":[{"metainfo":{"version":"1.0.6"}},
{"table":{"family":"ip","name":"filter"}},
{"chain":{"family":"ip","table":"filter","name":"FORWARD","handle":1,"type":"filter","hook":"forward","prio":0,"policy":"drop"}},
{"chain":{"family":"ip","table":"filter","name":"DOCKER-USER","handle":2}},
{"chain":{"family":"inet","table":"mine","name":"fwd","handle":1,"type":"filter","hook":"forward","prio":0,"policy":"accept"}},
{"chain":{"family":"ip6","table":"filter","name":"FORWARD","handle":1,"type":"filter","hook":"forward","prio":0,"policy":"drop"}}RULE]}`
	for rule, want := range map[string][]string{
		"": {"nft insert rule ip filter FORWARD iifname orr-1 accept", "nft insert rule ip filter FORWARD oifname orr-1 accept"},
		`,{"rule":{"family":"ip","table":"filter","chain":"DOCKER-USER","handle":9,"expr":[{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"orr-1"}},{"accept":null}]}}`: nil,
		`,{"rule":{"family":"inet","table":"mine","chain":"fwd","handle":9,"expr":[{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"orr-1"}},{"accept":null}]}}`: {
			"nft insert rule ip filter FORWARD iifname orr-1 accept", "nft insert rule ip filter FORWARD oifname orr-1 accept"},
	} {
		got, err := parseForwardDrops([]byte(strings.Replace(docker, "RULE", rule, 1)), "orr-1")
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("with %q: %q, %v", rule, got, err)
		}
	}
	if got := legacyForwardDrops("-P INPUT ACCEPT\n-P FORWARD DROP\n", "orr-1"); len(got) != 2 {
		t.Errorf("legacy: %q", got)
	}
	if got := legacyForwardDrops("-P FORWARD DROP\n-A FORWARD -i orr-1 -j ACCEPT\n-A FORWARD -o orr-1 -j ACCEPT\n", "orr-1"); len(got) != 0 {
		t.Errorf("legacy with rules: %q", got)
	}
}

func TestResolversOfNodes(t *testing.T) {
	const conf = "# x\nnameserver 127.0.0.1\nnameserver ::1\nnameserver fd00::1\n"
	if r := parseNameservers(bufio.NewScanner(strings.NewReader(conf))); len(r) != 0 {
		t.Errorf("nodes cannot reach %v", r)
	}
	if got := resolvConfOf(nil); got != noResolver {
		t.Errorf("DNS servers do not take %q", got)
	}
	r := parseNameservers(bufio.NewScanner(strings.NewReader(conf + "nameserver 10.0.0.2\n")))
	if got := resolvConfOf(r); got != "nameserver 10.0.0.2\n" {
		t.Errorf("got %q", got)
	}
}

// A host and a fabric in namespaces: the way out leads past the host, not to it.
func TestEgressIsFiltered(t *testing.T) {
	if os.Getenv("ORRERY_TEST_PART") != "egress" {
		if _, err := proc.Look("nft"); err != nil || os.Geteuid() != 0 {
			t.Skip("needs root and nft")
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestEgressIsFiltered$", "-test.v")
		cmd.Env = append(os.Environ(), "ORRERY_TEST_PART=egress")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		out, err := cmd.CombinedOutput()
		if strings.Contains(string(out), "this kernel cannot") {
			t.Skipf("%s", out)
		}
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	e := spec.Named("unit")
	e.Network.Plugin, e.Network.Egress, e.Ports = spec.PluginPTP, true, spec.Ports{API: 1234, Registry: 1235}
	c, err := newCluster(e)
	if err != nil {
		t.Fatal(err)
	}
	h, err := netlink.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	if err := linkUp(h, "lo"); err != nil {
		t.Fatal(err)
	}
	f, err := newFabric(c)
	if err != nil {
		t.Skipf("this kernel cannot: %v", err)
	}
	if err := f.connectOut(t.Context()); err != nil {
		t.Fatal(err)
	}
	out := egressOf(c.Environment)
	resolver := netip.MustParseAddr("198.51.100.53")
	lo, err := h.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	// The host is also the resolver, and the cloud's metadata service.
	for _, a := range []string{"198.51.100.53/32", "198.51.100.1/32", "169.254.169.254/32"} {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.AddrAdd(lo, addr); err != nil {
			t.Fatal(err)
		}
	}
	for _, port := range []string{"53", "8080"} {
		l, err := net.Listen("tcp", "0.0.0.0:"+port)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	reach := func(address string) bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		conn, err := f.ns.dial(ctx, address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}
	if !reach("198.51.100.1:8080") {
		t.Fatal("without rules the host is not reached, so nothing is shown")
	}
	if err := nft(t.Context(), out.rules([]netip.Addr{resolver}, "0")); err != nil {
		t.Skipf("this kernel cannot: %v", err)
	}
	for address, want := range map[string]bool{
		"198.51.100.53:53": true, "198.51.100.53:8080": false, "198.51.100.1:8080": false, "198.51.100.1:53": false,
		"169.254.169.254:8080": false, out.host.Addr().String() + ":8080": false,
	} {
		if got := reach(address); got != want {
			t.Errorf("%s is reached: %t, want %t", address, got, want)
		}
	}
}
