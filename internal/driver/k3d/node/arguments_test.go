package node

import (
	"reflect"
	"strings"
	"testing"
)

// As k3d v5.9 writes them.
func TestParse(t *testing.T) {
	for name, c := range map[string]struct {
		args string
		want func(*arguments)
		err  string
	}{
		"the first of three": {
			args: "server --cluster-init --disable=coredns,traefik --cluster-cidr=10.1.0.0/16 --service-cidr 10.2.0.0/16 --node-label topology.kubernetes.io/zone=a --node-label rack=a-1 --tls-san 127.0.0.1 --tls-san k3d-x-serverlb",
			want: func(a *arguments) {
				a.server, a.clusterInit = true, true
				a.labels = []string{"topology.kubernetes.io/zone=a", "rack=a-1"}
				a.names = []string{"127.0.0.1", "k3d-x-serverlb"}
			},
		},
		"an agent":              {args: "agent --node-label rack=b --pause-image=x", want: func(a *arguments) { a.labels, a.sandbox = []string{"rack=b"}, "x" }},
		"a network is deployed": {args: "server --flannel-backend=none --disable-kube-proxy --disable-network-policy", want: func(a *arguments) { a.server, a.unconnected, a.unproxied = true, true, true }},
		"nothing":               {err: "want server or agent"},
		"another verb":          {args: "etcd-snapshot", err: "want server or agent"},
		"an unknown flag":       {args: "server --docker", err: "--docker means nothing"},
		"flannel":               {args: "server --flannel-backend=vxlan", err: "want none, or host-gw"},
		"no value":              {args: "server --tls-san", err: "wants a value"},
		"a value too many":      {args: "server --cluster-init=false", err: "want nothing"},
		"another part":          {args: "server --disable=helm", err: "want some of coredns"},
		"ranges that overlap":   {args: "server --cluster-cidr=10.2.0.0/15 --service-cidr=10.3.0.0/16", err: "apart"},
		"no flag":               {args: "server now", err: "is no flag"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parse(strings.Fields(c.args))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var want arguments
			c.want(&want)
			want.pods, want.services, want.dns = got.pods, got.services, got.dns
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
		})
	}
	a, err := parse([]string{"server", "--service-cidr=10.7.0.0/16"})
	if err != nil || a.dns.String() != "10.7.0.10" || a.pods.String() != defaultPods {
		t.Errorf("ranges %+v, %v", a, err)
	}
}

func TestPlace(t *testing.T) {
	a := arguments{labels: []string{"topology.kubernetes.io/zone=b", "x=y"}}
	if zone, rack, rest := a.place("n"); zone != "b" || rack != "n" || !reflect.DeepEqual(rest, []string{"x=y"}) {
		t.Errorf("%s %s %v", zone, rack, rest)
	}
}

func TestRegistries(t *testing.T) {
	for name, c := range map[string]struct{ in, file, want, err string }{
		"all": {in: "mirrors:\n  \"*\":\n    endpoint: [http://m:5000]\n", file: "_default", want: "\n[host.\"http://m:5000\"]\n  capabilities = [\"pull\", \"resolve\"]\n"},
		"one": {in: "mirrors:\n  r.io:\n    endpoint: [https://m]\n", file: "r.io", want: "server = \"https://r.io\"\n\n[host.\"https://m\"]\n  capabilities = [\"pull\", \"resolve\"]\n"},
		"as k3d writes it": {
			in:   "mirrors:\n  '*':\n    endpoint:\n    - http://m:5000\n    rewrite: {}\nconfigs: {}\nauths: null\n",
			file: "_default", want: "\n[host.\"http://m:5000\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
		},
		"an old password": {in: "auths:\n  m: {username: x}\n", err: "auths.m"},
		"a password":      {in: "configs:\n  m:\n    auth: {username: x}\n", err: "configs.m"},
		"rewriting":       {in: "mirrors:\n  r.io:\n    rewrite: {a: b}\n", err: "rewrite"},
		"no URL":          {in: "mirrors:\n  r.io:\n    endpoint: [m:5000]\n", err: "endpoint[0]"},
		"out of here":     {in: "mirrors:\n  ../x:\n    endpoint: [http://m]\n", err: "want HOST"},
		"unknown":         {in: "mirror: {}\n", err: "mirror"},
		"empty":           {},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseRegistries([]byte(c.in))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil || string(got[c.file]) != c.want {
				t.Errorf("%q, %v; want %q", got, err, c.want)
			}
		})
	}
	if hosts, err := readRegistries(t.TempDir() + "/none"); hosts != nil || err != nil {
		t.Errorf("without a file: %v, %v", hosts, err)
	}
}

func TestJoinHost(t *testing.T) {
	for raw, want := range map[string]string{"": "", "https://k3d-x-server-0:6443": "k3d-x-server-0"} {
		if got, err := joinHost(raw); got != want || err != nil {
			t.Errorf("%q: %q, %v", raw, got, err)
		}
	}
	for _, raw := range []string{"k3d-x-server-0:6443", "http://x:1", "https://"} {
		if _, err := joinHost(raw); err == nil {
			t.Errorf("%q is taken", raw)
		}
	}
}

// FuzzNode: whatever k3d, or somebody in its place, gives a node, it is refused or makes files below one folder.
func FuzzNode(f *testing.F) {
	f.Add("server --cluster-init --cluster-cidr=10.1.0.0/16 --node-label rack=a", "mirrors:\n  \"*\":\n    endpoint:\n    - http://mirror:5000\n")
	f.Add("agent", "mirrors: {../x: {endpoint: [\"http://a\"]}}\nconfigs: {}\n")
	f.Fuzz(func(t *testing.T, args, file string) {
		_, _ = parse(strings.Fields(args))
		hosts, err := parseRegistries([]byte(file))
		if err != nil && hosts != nil {
			t.Errorf("%v, and files all the same: %v", err, hosts)
		}
		for name := range hosts {
			if strings.ContainsAny(name, "/\\") || name == "." || name == ".." {
				t.Errorf("a file called %q", name)
			}
		}
	})
}
