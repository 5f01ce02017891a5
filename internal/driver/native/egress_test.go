package native

import (
	"context"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/orrery-dev/orrery/internal/proc"
	"github.com/orrery-dev/orrery/internal/spec"
)

func TestEgressNames(t *testing.T) {
	linkLocal := netip.MustParsePrefix("169.254.0.0/16")
	metadata := netip.MustParseAddr("169.254.169.254")
	seen := map[string]string{}
	for _, env := range []string{"local", "a", "b", "test", strings.Repeat("x", 20)} {
		e := egressOf(env)
		if e.host.Masked() != e.inner.Masked() || e.host == e.inner || !linkLocal.Contains(e.host.Addr()) || e.host.Masked().Contains(metadata) {
			t.Errorf("%s: %s and %s", env, e.host, e.inner)
		}
		if len(e.link) > 15 {
			t.Errorf("%s: link %s is too long a name", env, e.link)
		}
		if other, ok := seen[e.link]; ok {
			t.Errorf("%s and %s share %s", env, other, e.link)
		}
		seen[e.link] = env
	}
}

// The host gets a link, a table and forwarding; stop and delete take them away, also when
// the supervisor was killed.
func TestEgressIsUndone(t *testing.T) {
	dist := testDistribution(t)
	e := spec.Named("orrery-egress")
	e.Network.Plugin = spec.PluginPTP
	e.Ports = spec.Ports{API: freePort(t), Registry: freePort(t)}
	e.Network.Egress = true
	journal := &memoryJournal{}
	d, err := New(Options{Spec: e, StateDir: "/var/lib/orrery/" + e.Name, Executable: os.Args[0], Journal: journal})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Delete(context.Background()); err != nil {
			t.Error(err)
		}
	})
	before, err := os.ReadFile(ipForward)
	if err != nil {
		t.Fatal(err)
	}
	for _, end := range []string{"stop", "delete"} {
		if err := os.MkdirAll(string(d.paths), 0o700); err != nil {
			t.Fatal(err)
		}
		if !exists(d.paths.distribution()) {
			link(t, dist, string(d.paths))
		}
		if err := d.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		if l, err := netlink.LinkByName(egressOf(e.Name).link); err != nil || l.Attrs().OperState == netlink.OperDown {
			t.Errorf("link: %v", err)
		}
		if leaks, err := d.egressLeaks(t.Context()); err != nil || len(leaks) != 2 {
			t.Errorf("%v, %v; want a link and a table", leaks, err)
		}
		if end == "stop" {
			err = d.Stop(t.Context())
		} else {
			id, ierr := supervisorIdentity(d.paths)
			if ierr != nil {
				t.Fatal(ierr)
			}
			_ = id.Signal(9)
			err = d.Delete(t.Context())
		}
		if err != nil {
			t.Fatalf("%s: %v", end, err)
		}
		leaks, err := d.egressLeaks(t.Context())
		if err != nil || len(leaks) != 0 {
			t.Errorf("after %s: %v, %v", end, leaks, err)
		}
		if after, _ := os.ReadFile(ipForward); string(after) != string(before) {
			t.Errorf("after %s ip_forward is %q, was %q", end, after, before)
		}
	}
	if live := journal.Live(); len(live) > 0 {
		t.Errorf("journal still has %+v", live)
	}
	if leaks, err := d.Audit(t.Context()); err != nil || len(leaks) > 0 {
		t.Errorf("%v, %v", leaks, err)
	}
}

// However the lives of environments with a way out overlap, the host forwards afterwards what
// it forwarded before, in a network of the test's own.
func TestForwardingIsRestoredByTheLast(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes a network namespace")
	}
	if _, err := proc.Look("nft"); err != nil {
		t.Skip(err)
	}
	for _, before := range []string{"0", "1"} {
		for _, course := range []string{"+a -a", "+a +b -a -b", "+a +b -b -a", "+a +b -a +a -b -a", "+a +a +b -a -a -b", "+a +b +c -a -b -c", "+a +b -a +c -b -c", "+a flush -a", "+a +b flush -a -b"} {
			t.Run(before+" "+course, func(t *testing.T) {
				runtime.LockOSThread() // for good: the thread ends with the test
				if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
					t.Skip("no network namespace:", err)
				}
				if err := os.WriteFile(ipForward, []byte(before), 0o644); err != nil {
					t.Fatal(err)
				}
				if err := nft(t.Context(), "list tables\n"); err != nil {
					t.Skip(err)
				}
				drivers := map[string]*Driver{}
				for _, name := range []string{"a", "b", "c"} {
					e := spec.Named(name)
					e.Network.Plugin, e.Network.Egress, e.Ports = spec.PluginPTP, true, spec.Ports{API: 1, Registry: 2}
					d, err := New(Options{Spec: e, StateDir: t.TempDir(), Journal: &memoryJournal{}})
					if err != nil {
						t.Fatal(err)
					}
					drivers[name] = d
				}
				up := map[string]bool{}
				for _, step := range strings.Fields(course) {
					var err error
					switch d := drivers[step[1:]]; {
					case step == "flush": // as a firewall that is loaded again does
						err = nft(t.Context(), "flush ruleset\n")
					case step[0] == '+':
						up[step[1:]] = true
						err = d.makeEgress(t.Context())
					default:
						delete(up, step[1:])
						err = d.undoEgress(t.Context())
					}
					if err != nil {
						t.Fatalf("%s: %v", step, err)
					}
					if now := forwards(t); len(up) > 0 && now != "1" && !strings.Contains(course, "flush") {
						t.Errorf("after %s nothing is forwarded, and %v need it", step, up)
					}
				}
				if now := forwards(t); now != before {
					t.Errorf("ip_forward is %s, was %s", now, before)
				}
				for name, d := range drivers {
					if live := d.options.Journal.(*memoryJournal).Live(); len(live) > 0 {
						t.Errorf("%s: journal has %v", name, live)
					}
				}
				if exists(egressLock) {
					t.Errorf("%s is left", egressLock)
				}
			})
		}
	}
}

func forwards(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(ipForward)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}
