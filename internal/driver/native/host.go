package native

import (
	"bufio"
	"net/netip"
	"os"
	"strings"
)

// host is what preflight looks at; a test puts others in its place.
type host struct{}

func realHost() host { return host{} }

// hostNameservers are the real ones behind a local stub, where there is one.
func hostNameservers() []netip.Addr {
	for _, path := range []string{"/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"} {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		a := parseNameservers(bufio.NewScanner(f))
		f.Close()
		if len(a) > 0 {
			return a
		}
	}
	return nil
}

func parseNameservers(s *bufio.Scanner) []netip.Addr {
	var found []netip.Addr
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) >= 2 && f[0] == "nameserver" {
			if a, err := netip.ParseAddr(f[1]); err == nil && !a.IsLoopback() {
				found = append(found, a)
			}
		}
	}
	return found
}
