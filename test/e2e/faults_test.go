package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// services of a server, each of which is killed once, and those of its network, whichever it is.
var (
	services        = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "containerd", "kubelet"}
	networkServices = []string{"kube-proxy", "cilium-agent", "cilium-operator"}
)

// restored bounds how long everything may take to be Ready again after a fault. It is no
// promise: on a machine that does much else, all of it starts on what is left.
const restored = 5 * time.Minute

// faults kills everything that can be killed, under a ledger of acknowledged messages.
func faults(t *testing.T, e *environment) {
	l := openLedger(t, e)
	if ok := t.Run("before", func(t *testing.T) { l.more(t, 20, restored); l.check(t) }); !ok {
		t.Fatal("the ledger cannot be kept: a fault would prove nothing")
	}
	// fault runs one: what is done, and what must then come true besides Ready.
	fault := func(name string, do func(t *testing.T), more ...func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { e.keepSupport(t) })
			l.more(t, 20, restored)
			do(t)
			for _, f := range more {
				f(t)
			}
			e.becomesReady(t, restored)
			t.Logf("publishing again after %.1f s", l.more(t, 20, restored).Seconds())
			l.check(t)
			e.verify(t, "cluster", "coredns", "local-path", "nats")
		})
	}
	killed := slices.Clone(services)
	for _, s := range networkServices {
		if e.nodes(t)["server1"].pid(s) != 0 {
			killed = append(killed, s)
		}
	}
	if len(killed) == len(services) {
		t.Errorf("server1 runs none of %v", networkServices)
	}
	for i, service := range killed {
		server := fmt.Sprintf("server%d", i%3+1)
		var old int
		fault("kill-"+service, func(t *testing.T) {
			n := e.nodes(t)[server]
			if old = n.pid(service); old == 0 {
				t.Fatalf("%s of %s does not run: %+v", service, server, n)
			}
			kill(t, old)
		}, func(t *testing.T) {
			took := eventually(t, service+" of "+server+" runs again", restored, func(context.Context) error {
				n := e.nodes(t)[server]
				if now := n.pid(service); now == 0 || now == old {
					return fmt.Errorf("its PID is %d, was %d", now, old)
				}
				return nil
			})
			t.Logf("%s of %s was restarted after %.1f s", service, server, took.Seconds())
		})
	}
	fault("kill-node", func(t *testing.T) { e.powerLoss(t, "server1") })
	fault("stop-node", func(t *testing.T) {
		stop := e.try(t, "node", "stop", "agent1")
		if stop.code != 0 {
			t.Fatal(stop)
		}
		if n := e.nodes(t)["agent1"]; n.Running || !n.Stopped {
			t.Errorf("after node stop: %+v", n)
		}
		if err := e.ready(t.Context(), "agent1"); err != nil {
			t.Errorf("the others: %v", err)
		}
		goesOn := l.more(t, 20, restored) // the stream, with the node away
		start := e.try(t, "node", "start", "agent1")
		if start.code != 0 {
			t.Fatal(start)
		}
		t.Logf("node stop %.1f s, publishing again after %.1f s, node start %.1f s", stop.took.Seconds(), goesOn.Seconds(), start.took.Seconds())
	})
	fault("kill-supervisor", func(t *testing.T) {
		kill(t, e.supervisor(t))
		_, sum := e.up(t)
		if !sum.Changed {
			t.Error("up says that nothing changed")
		}
		t.Logf("up after the supervisor's death: %v", sum.Seconds)
	})
	fault("kill-all-nodes", func(t *testing.T) { e.powerLoss(t, slices.Sorted(maps.Keys(e.nodes(t)))...) })
	fault("stop-and-start", func(t *testing.T) {
		addresses := func() string {
			s := ""
			for _, n := range e.status(t).Nodes {
				s += n.Name + "=" + n.Address + " "
			}
			return s + fmt.Sprint(e.status(t).Endpoints)
		}
		before := addresses()
		stop := e.try(t, "stop")
		if stop.code != 0 {
			t.Fatal(stop)
		}
		if p := e.status(t).Phase; p != "stopped" {
			t.Errorf("after stop the phase is %q", p)
		}
		if left := e.strayProcesses(); len(left) > 0 {
			t.Errorf("stop left running: %v", left)
		}
		start := e.try(t, "start")
		if start.code != 0 {
			t.Fatal(start)
		}
		t.Logf("stop %.1f s, start %.1f s", stop.took.Seconds(), start.took.Seconds())
		if after := addresses(); after != before {
			t.Errorf("addresses were %s, are %s", before, after)
		}
	})
	// What stands on the rest is proven once, after everything has died under it.
	t.Run("after", func(t *testing.T) {
		t.Cleanup(func() { e.keepSupport(t) })
		e.verify(t)
	})
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("kill %d: %v", pid, err)
	}
}

// powerLoss kills nodes, all at the same moment, and waits until every one of them has
// other processes than before and has told the cluster that it is back: its Ready
// condition alone stays true for most of a minute after its death.
func (e *environment) powerLoss(t *testing.T, names ...string) {
	t.Helper()
	before := e.nodes(t)
	killed := time.Now()
	var wg sync.WaitGroup
	for _, name := range names {
		wg.Go(func() {
			if r := e.invoke(t.Context(), nil, "node", "kill", name); r.code != 0 || r.err != nil {
				t.Error(r)
			}
		})
	}
	wg.Wait()
	took := eventually(t, fmt.Sprintf("%v run again", names), restored, func(ctx context.Context) error {
		now := e.nodes(t)
		for _, name := range names {
			if pid := now[name].pid("kubelet"); pid == 0 || pid == before[name].pid("kubelet") {
				return fmt.Errorf("kubelet of %s has PID %d, had %d", name, pid, before[name].pid("kubelet"))
			}
			r := e.invoke(ctx, nil, "kubectl", "-n", "kube-node-lease", "get", "lease", name, "-o", "jsonpath={.spec.renewTime}")
			if at, err := time.Parse(time.RFC3339Nano, r.stdout); err != nil || at.Before(killed) {
				return fmt.Errorf("the lease of %s was renewed at %q, before it was killed at %s", name, r.stdout, killed.UTC().Format(time.RFC3339))
			}
		}
		return nil
	})
	t.Logf("%v were back after %.1f s", names, took.Seconds())
}

// supervisor finds the process that outlives the command line.
func (e *environment) supervisor(t *testing.T) int {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		exe, _ := os.Readlink(filepath.Join(dir, "exe"))
		cmd, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if args := strings.Split(string(cmd), "\x00"); strings.HasPrefix(exe, e.state()) && len(args) > 1 && args[1] == "supervise" {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			return pid
		}
	}
	t.Fatal("no supervisor runs")
	return 0
}
