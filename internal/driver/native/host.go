package native

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/proc"
)

// host is what preflight looks at; a test puts others in its place.
type host struct {
	euid     func() int
	cgroups  func() (cgroups, error)
	read     func(path string) (string, error)
	exists   func(path string) bool
	writable func(path string) bool
	look     func(program string) (string, error)
	// nftables has the kernel judge what Services are made of, which needs the program too.
	nftables func(ctx context.Context) error
	// disk tells about the file system that path is or will be on.
	disk func(path string) (free uint64, overlay bool, err error)
	// listen tries a port of 127.0.0.1.
	listen func(port int) error
	// routes of the host, without the default one.
	routes func() ([]netip.Prefix, error)
	// inotify counts instances in use.
	inotify func() int
	// bpf makes a map and lets it go.
	bpf func() error
	// compiler of BPF programs.
	compiler driver.Compiler
	// resolvers of names that nodes can reach.
	resolvers func() []netip.Addr
	// forwardDrops says what keeps packets of a link from being forwarded.
	forwardDrops func(ctx context.Context, link string) ([]string, error)
	// place tells what the nearest folder of path that exists is like.
	place func(path string) (place, error)
	// kept names what the supervisor cannot be rid of.
	kept func() []string
}

// services is what kube-proxy asks of the kernel, in small. A kernel may have nf_tables and neither IPv4 nor
// address translation in it (User-mode Linux of Debian): no Service works there, whatever starts.
const services = `
add table ip orrery-preflight
add map ip orrery-preflight services { type ipv4_addr . inet_proto . inet_service : verdict ; }
add chain ip orrery-preflight endpoint
add rule ip orrery-preflight endpoint meta l4proto tcp dnat to 192.0.2.1:443
add chain ip orrery-preflight out { type nat hook prerouting priority dstnat ; }
add rule ip orrery-preflight out ip daddr . meta l4proto . th dport vmap @services
add rule ip orrery-preflight out fib daddr type local numgen random mod 2 vmap { 0 : goto endpoint, 1 : return }
add chain ip orrery-preflight back { type nat hook postrouting priority srcnat ; }
add rule ip orrery-preflight back ct state new masquerade fully-random
`

func realHost() host {
	return host{
		euid:    os.Geteuid,
		cgroups: hostCgroups,
		read: func(path string) (string, error) {
			b, err := os.ReadFile(path)
			return strings.TrimSpace(string(b)), err
		},
		exists:   exists,
		writable: func(path string) bool { return unix.Access(path, unix.W_OK) == nil },
		look:     proc.Look,
		nftables: func(ctx context.Context) error {
			nft, err := proc.Look("nft")
			if err != nil {
				return err
			}
			return proc.Run(ctx, &proc.Cmd{Path: nft, Args: []string{"--check", "--file", "-"}, Stdin: strings.NewReader(services)})
		},
		disk: statfs,
		listen: func(port int) error {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil {
				return err
			}
			return l.Close()
		},
		routes:  hostRoutes,
		inotify: inotifyInstances,
		bpf:     tryBPF,
		compiler: func(context.Context) (string, error) {
			return "", errors.New("nobody says what compiles the BPF programs of the nodes")
		},
		kept: proc.Kept, place: placeOf,
		resolvers: hostNameservers, forwardDrops: forwardDrops,
	}
}

// statfs asks the nearest folder that exists.
func statfs(path string) (uint64, bool, error) {
	for !exists(path) && path != "/" {
		path = filepath.Dir(path)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, false, fmt.Errorf("statfs %s: %w", path, err)
	}
	return st.Bavail * uint64(st.Bsize), st.Type == unix.OVERLAYFS_SUPER_MAGIC, nil
}

func hostRoutes() ([]netip.Prefix, error) {
	list, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, err
	}
	var p []netip.Prefix
	for _, r := range list {
		if r.Dst == nil {
			continue
		}
		bits, _ := r.Dst.Mask.Size()
		if a, ok := netip.AddrFromSlice(r.Dst.IP.To4()); ok && bits > 0 {
			p = append(p, netip.PrefixFrom(a, bits))
		}
	}
	return p, nil
}

// inotifyInstances counts those of all processes that we may look at.
func inotifyInstances() int {
	n := 0
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		if t, err := os.Readlink(fd); err == nil && t == "anon_inode:inotify" {
			n++
		}
	}
	return n
}

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
			if a, err := netip.ParseAddr(f[1]); err == nil && a.Is4() && !a.IsLoopback() { // nodes have no IPv6
				found = append(found, a)
			}
		}
	}
	return found
}
