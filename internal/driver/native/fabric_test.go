package native

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// testFabric is that of testCluster, without nodes. It ends with the test.
func testFabric(t *testing.T) (cluster, *fabric) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	c := testCluster(t)
	f, err := newFabric(c)
	if err != nil {
		t.Skipf("this kernel cannot: %v", err)
	}
	t.Cleanup(f.close)
	return c, f
}

// Whoever asks for a stopped node, or one of its pods, is told at once.
func TestStoppedNodeIsRefused(t *testing.T) {
	c, f := testFabric(t)
	asking, err := newNetNS()
	if err != nil {
		t.Fatal(err)
	}
	defer asking.close()
	server, stopped := c.Nodes[0], c.Nodes[4]
	net := networks[c.Plugin]
	if err := f.plugInto(server, asking.file, net.routes(c, server)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second stop is as good
		if err := f.standIn(stopped, net.routes(c, stopped)); err != nil {
			t.Fatal(err)
		}
	}
	dial := func(address string) (error, time.Duration) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		conn, err := asking.dial(ctx, address)
		if err == nil {
			conn.Close()
		}
		return err, time.Since(began)
	}
	pod := stopped.PodCIDR.Addr().Next().Next()
	for address, want := range map[string]error{stopped.Address.String() + ":10250": syscall.ECONNREFUSED, pod.String() + ":80": syscall.EHOSTUNREACH} {
		if err, took := dial(address); !errors.Is(err, want) || took > 2*time.Second {
			t.Errorf("%s: %v after %s, want %v", address, err, took, want)
		}
	}
	// The node comes back and has its address for itself.
	back, err := newNetNS()
	if err != nil {
		t.Fatal(err)
	}
	defer back.close()
	if err := f.plugInto(stopped, back.file, net.routes(c, stopped)); err != nil {
		t.Fatal(err)
	}
	l, err := back.listen(stopped.Address.String() + ":10250")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err, _ := dial(stopped.Address.String() + ":10250"); err != nil {
		t.Errorf("after the start: %v", err)
	}
	if len(f.standIns) != 0 {
		t.Error("somebody still answers for it")
	}
}

// A connection to a node that lost its network breaks; one whose other end says nothing, but is
// there, stays.
func TestDetectSilence(t *testing.T) {
	c, f := testFabric(t)
	ns, err := newNetNS()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.close()
	if err := f.plugInto(c.Nodes[0], ns.file, networks[c.Plugin].routes(c, c.Nodes[0])); err != nil {
		t.Fatal(err)
	}
	l, err := ns.listen(c.Nodes[0].Address.String() + ":6443")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := f.ns.dial(t.Context(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const after = 4 * time.Second // keep-alives count whole seconds
	detectSilence(conn, after)
	read := func(atMost time.Duration) error {
		_ = conn.SetReadDeadline(time.Now().Add(atMost))
		_, err := conn.Read(make([]byte, 1))
		return err
	}
	if err := read(2 * after); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("while the node is there: %v", err)
	}
	if err := ns.do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		link, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		return h.LinkSetDown(link)
	}); err != nil {
		t.Fatal(err)
	}
	if err := read(time.Minute); !errors.Is(err, syscall.ETIMEDOUT) && !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("after the node lost its network: %v", err)
	}
}
