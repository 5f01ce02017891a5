package console

import (
	"net"
	"strings"
	"testing"
)

// What a browser may ask for the console's name is all the console's: a port whose other half
// somebody else has is not taken.
func TestListen(t *testing.T) {
	other, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skipf("needs ::1: %v", err)
	}
	defer other.Close()
	taken := other.Addr().(*net.TCPAddr).Port
	if got, err := Listen(taken); err == nil || !strings.Contains(err.Error(), other.Addr().String()) {
		t.Errorf("%v, %v", got, err)
	}
	got, err := Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range got {
		defer l.Close()
	}
	if len(got) != 2 {
		t.Fatalf("%v", got)
	}
	four, six := got[0].Addr().(*net.TCPAddr), got[1].Addr().(*net.TCPAddr)
	if four.Port != six.Port || four.IP.String() != "127.0.0.1" || six.IP.String() != "::1" {
		t.Errorf("%v, %v", four, six)
	}
}
