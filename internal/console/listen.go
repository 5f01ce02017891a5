package console

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// Listen takes a port, a free one when it is 0, of both loopback addresses: a browser asks either
// of them for a name below localhost, and the one that were left free another user of this machine
// could take. The first listener is that of 127.0.0.1; there is no other where the host has no ::1.
// The caller closes them.
func Listen(port int) ([]net.Listener, error) {
	for try := 0; ; try++ {
		four, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return nil, fmt.Errorf("listen on 127.0.0.1: %w", err)
		}
		at := net.JoinHostPort("::1", strconv.Itoa(four.Addr().(*net.TCPAddr).Port))
		six, err := net.Listen("tcp6", at)
		switch {
		case err == nil:
			return []net.Listener{four, six}, nil
		case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
			return []net.Listener{four}, nil
		}
		four.Close()
		if port != 0 || try == 20 {
			return nil, fmt.Errorf("listen on %s, where browsers look for the console too: %w", at, err)
		}
	}
}
