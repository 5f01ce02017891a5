package native

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"
)

// Whoever asks for a stopped node, or one of its pods, is told at once.
func TestStoppedNodeIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	c := testCluster(t)
	f, err := newFabric(c)
	if err != nil {
		t.Skipf("this kernel cannot: %v", err)
	}
	defer f.close()
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
