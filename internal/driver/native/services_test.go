package native

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/spec"
)

// Nodes take the sandbox that the lock names, whoever moves a tag in the mirror; a start
// without a lock keeps it.
func TestSandboxByDigest(t *testing.T) {
	const locked = "registry.orrery.internal/pause@sha256:1111111111111111111111111111111111111111111111111111111111111111"
	dir := t.TempDir()
	for _, c := range []struct{ given, want string }{{locked, locked}, {"", locked}, {locked[:len(locked)-1] + "2", locked[:len(locked)-1] + "2"}} {
		e := spec.Named("unit")
		e.Ports, e.Network.Plugin = spec.Ports{API: 1234, Registry: 1235}, spec.PluginPTP
		d, err := New(Options{Spec: e, StateDir: dir, Journal: &memoryJournal{}, Sandbox: c.given})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.makeState(); err != nil {
			t.Fatal(err)
		}
		for _, n := range d.cluster.Nodes {
			b, err := os.ReadFile(d.paths.nodeEtc(n.Name, "containerd", "config.toml"))
			if err != nil {
				t.Fatal(err)
			}
			if want := "sandbox = '" + c.want + "'\n"; !strings.Contains(string(b), want) {
				t.Errorf("%s with %q: no %s in\n%s", n.Name, c.given, want, b)
			}
		}
	}
}

func flagsOf(c cluster, n node, name string) string {
	for _, s := range nodeServices(c, n, networks[c.Plugin]) {
		if s.Name == name {
			return strings.Join(s.Args, " ")
		}
	}
	return ""
}

func TestDurability(t *testing.T) {
	for _, fast := range []bool{true, false} {
		c := testCluster(t)
		c.Fast = fast
		if got := strings.Contains(flagsOf(c, c.Nodes[0], "etcd"), "--unsafe-no-fsync"); got != fast {
			t.Errorf("fast %t: etcd without fsync %t", fast, got)
		}
		if got := strings.Contains(string(containerdConfig(c)), "no_sync = true"); got != fast {
			t.Errorf("fast %t: containerd without fsync %t", fast, got)
		}
	}
}

// One server that nobody can join has nobody to elect; a container's may be joined.
func TestLeaderElection(t *testing.T) {
	many := testCluster(t)
	one := many
	one.Nodes = []node{many.Nodes[0], many.Nodes[4]}
	contained := one
	contained.Fabric = netip.Prefix{}
	for want, clusters := range map[string][]cluster{"--leader-elect=true": {many, contained}, "--leader-elect=false": {one}} {
		for _, c := range clusters {
			for _, name := range []string{"kube-scheduler", "kube-controller-manager"} {
				if got := flagsOf(c, c.Nodes[0], name); !strings.Contains(got, want) {
					t.Errorf("%d nodes, fabric %s: %s lacks %s: %s", len(c.Nodes), c.Fabric, name, want, got)
				}
			}
		}
	}
}

func TestServices(t *testing.T) {
	c := testCluster(t)
	names := func(n node) []string {
		var s []string
		for _, svc := range nodeServices(c, n, networks[c.Plugin]) {
			s = append(s, svc.Name)
			if !strings.HasPrefix(svc.Args[0], nodeBin) {
				t.Errorf("%s runs %s, which is not of the distribution", svc.Name, svc.Args[0])
			}
		}
		return s
	}
	agent := []string{"containerd", "kubelet", "kube-proxy"}
	if got := names(c.Nodes[4]); !slices.Equal(got, agent) {
		t.Errorf("an agent runs %v, want %v", got, agent)
	}
	server := append([]string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}, agent...)
	if got := names(c.Nodes[0]); !slices.Equal(got, server) {
		t.Errorf("a server runs %v, want %v", got, server)
	}
	for name, flags := range map[string][]string{
		"kube-apiserver":          {"--authorization-mode=Node,RBAC", "NodeRestriction", "--client-ca-file=/etc/kubernetes/pki/apiserver-client-cas.crt", "--encryption-provider-config=", "--profiling=false", "--advertise-address=10.89.0.11"},
		"etcd":                    {"--client-cert-auth", "--peer-client-cert-auth", "server3=https://10.89.0.13:2380", "--listen-metrics-urls=http://10.89.0.11:2381"},
		"kube-scheduler":          {"--bind-address=10.89.0.11", "--tls-cert-file=/etc/kubernetes/pki/kube-scheduler.crt"},
		"kubelet":                 {"topology.kubernetes.io/zone=a,rack=a-1"},
		"kube-controller-manager": {"--use-service-account-credentials", "--kube-api-qps=300", "--bind-address=10.89.0.11", "--cluster-signing-kube-apiserver-client-key-file=/etc/kubernetes/pki/clients-ca.key"},
	} {
		for _, f := range flags {
			if got := flagsOf(c, c.Nodes[0], name); !strings.Contains(got, f) {
				t.Errorf("%s lacks %s: %s", name, f, got)
			}
		}
	}
	for _, signer := range []string{"cluster-signing-cert", "legacy-unknown", "kubelet-client", "kubelet-serving"} {
		if got := flagsOf(c, c.Nodes[0], "kube-controller-manager"); strings.Contains(got, signer) {
			t.Errorf("it signs as %s: %s", signer, got)
		}
	}
	if r := networks["ptp"].routes(c, c.Nodes[0]); len(r) != 5 || slices.ContainsFunc(r, func(r route) bool { return r.Via.IsValid() == (r.To == c.Nodes[0].PodCIDR) }) {
		t.Errorf("routes %v", r)
	}
}
