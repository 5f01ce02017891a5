package spec

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

const head = "apiVersion: orrery.dev/v1alpha1\nkind: Environment\n"

func TestDefaultIsValid(t *testing.T) {
	for _, name := range []string{"local", "ci-4711"} {
		e := Named(name)
		if err := e.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if e := Named("other"); e.Ports != (Ports{}) {
		t.Errorf("ports of another environment: %+v, want free ones", e.Ports)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	got, err := Load(filepath.Join(dir, "absent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(Default(), got); d != "" {
		t.Errorf("an absent file is not the default:\n%s", d)
	}
	if _, err := Load(dir); err == nil {
		t.Error("a directory was read as a file")
	}
	path := filepath.Join(dir, "orrery.yaml")
	if err := os.WriteFile(path, []byte(head), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err = Load(path); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(Default(), got); d != "" {
		t.Errorf("a file that says nothing is not the default:\n%s", d)
	}
}

// Files are found whatever folder a later verb is run in.
func TestLoadResolvesFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "orrery.yaml")
	text := head + "images: {caBundle: ca.pem, trustedKeys: [keys/a.pub, /etc/b.pub], password: {sops: ../secrets.yaml, key: k}}\n"
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	got, err := Load("orrery.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := Default().Images
	want.CABundle = filepath.Join(dir, "ca.pem")
	want.TrustedKeys = []string{filepath.Join(dir, "keys/a.pub"), "/etc/b.pub"}
	want.Password = &Password{SOPS: filepath.Join(dir, "../secrets.yaml"), Key: "k"}
	if d := cmp.Diff(want, got.Images); d != "" {
		t.Error(d)
	}
}

func TestParse(t *testing.T) {
	got, err := Parse([]byte(head+`
name: rehearsal
servers: 5
agents: 0      # all nodes are servers
zones: [north, south]
node: {memory: 4Gi}
network:
  pods: 10.200.0.0/16
  egress: true
durability: fast
ports: {api: 26443}
overlay: prod
components: [nats]
`), "orrery.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := Named("rehearsal")
	zero := 0
	want.Servers, want.Agents, want.Zones = 5, &zero, []string{"north", "south"}
	want.Node.Memory = "4Gi"
	want.Network.Pods, want.Network.Egress = "10.200.0.0/16", true
	want.Durability, want.Ports.API, want.Overlay, want.Components = DurabilityFast, 26443, "prod", []string{"nats"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got.MemoryBytes() != 4<<30 {
		t.Errorf("memory %d", got.MemoryBytes())
	}
}

// What was loaded and written is read as the same.
func TestRoundTrip(t *testing.T) {
	data, err := yaml.Marshal(Default())
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(data, "")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(Default(), got); d != "" {
		t.Error(d)
	}
}

// An explicit 0 is a free port also for "local"; Rename gives up the fixed ones.
func TestPorts(t *testing.T) {
	e, err := Parse([]byte(head+"ports: {api: 0}\n"), "")
	if err != nil {
		t.Fatal(err)
	}
	if want := (Ports{API: 0, Registry: 15000}); e.Ports != want {
		t.Errorf("%+v, want %+v", e.Ports, want)
	}
	e.Rename("local")
	if e.Ports.Registry != 15000 {
		t.Error("its own name cost it its port")
	}
	e.Ports.API = 26443
	e.Rename("second")
	if want := (Ports{API: 26443}); e.Ports != want || e.Name != "second" {
		t.Errorf("%s %+v, want second %+v", e.Name, e.Ports, want)
	}
}

func TestMistakes(t *testing.T) {
	long := strings.Repeat("x", 21)
	for _, c := range []struct{ name, doc, want string }{
		{"empty", "", "orrery.yaml: the file is empty; remove it for the defaults, or begin with \"apiVersion: orrery.dev/v1alpha1\" and \"kind: Environment\""},
		{"only a comment", "# nothing\n", "orrery.yaml: the file is empty; remove it for the defaults, or begin with \"apiVersion: orrery.dev/v1alpha1\" and \"kind: Environment\""},
		{"not YAML", head + "zones: [a\n", "orrery.yaml:3: not YAML: did not find expected ',' or ']'"},
		{"a list", "- a\n", "orrery.yaml:1: want a mapping that begins with \"apiVersion: orrery.dev/v1alpha1\", got a list"},
		{"two documents", head + "---\n" + head, "orrery.yaml:3: want one document, found a second; an environment has a file of its own"},
		{"newer", "apiVersion: orrery.dev/v1\nkind: Environment\nwhatever: [x]\n", "orrery.yaml:1: spec path `apiVersion`: this orrery reads orrery.dev/v1alpha1, the file says \"orrery.dev/v1\"; use the orrery that the file was written for, or write it as orrery.dev/v1alpha1"},
		{"foreign", "apiVersion: v1\nkind: Pod\n", "orrery.yaml:1: spec path `apiVersion`: want orrery.dev/v1alpha1, got \"v1\""},
		{"no version", "kind: Environment\n", "orrery.yaml: spec path `apiVersion`: want orrery.dev/v1alpha1, got nothing; every orrery.yaml begins with it"},
		{"kind", "apiVersion: orrery.dev/v1alpha1\nkind: Cluster\n", "orrery.yaml:2: spec path `kind`: want Environment, got \"Cluster\""},
		{"unknown field, near", head + "server: 3\n", "orrery.yaml:3: spec path `server`: no such field; did you mean \"servers\"?"},
		{"unknown field, case", head + "network:\n  Pods: 10.0.0.0/16\n", "orrery.yaml:4: spec path `network.Pods`: no such field; did you mean \"pods\"?"},
		{"unknown field", head + "node:\n  cpus: 4\n", "orrery.yaml:4: spec path `node.cpus`: no such field; known here: memory"},
		{"duplicate", head + "servers: 1\nname: x\nservers: 3\n", "orrery.yaml:5: spec path `servers`: already set on line 3; say it once"},
		{"duplicate below", head + "network:\n  egress: true\n  egress: false\n", "orrery.yaml:5: spec path `network.egress`: already set on line 4; say it once"},
		{"text for number", head + "servers: three\n", "orrery.yaml:3: spec path `servers`: want a whole number, got \"three\""},
		{"quoted number", head + "servers: \"3\"\n", "orrery.yaml:3: spec path `servers`: want a whole number, got \"3\""},
		{"fraction", head + "agents: 1.5\n", "orrery.yaml:3: spec path `agents`: want a whole number, got the number 1.5"},
		{"huge number", head + "agents: 99999999999999999999\n", "orrery.yaml:3: spec path `agents`: want a whole number, got the number 99999999999999999999"},
		{"number for text", head + "name: 42\n", "orrery.yaml:3: spec path `name`: want text, got the number 42; put it in quotes if that is meant: \"42\""},
		{"yes for bool", head + "network: {egress: 1}\n", "orrery.yaml:3: spec path `network.egress`: want true or false, got the number 1"},
		{"mapping for list", head + "zones: {a: b}\n", "orrery.yaml:3: spec path `zones`: want a list such as [a, b], got a mapping"},
		{"text for mapping", head + "network: fast\n", "orrery.yaml:3: spec path `network`: want a mapping, got \"fast\""},
		{"null", head + "network:\nservers: 3\n", "orrery.yaml:3: spec path `network`: want a mapping, got nothing; leave the field out for the default"},
		{"alias", head + "zones: &z [a]\ncomponents: *z\n", "orrery.yaml:3: spec path `zones`: anchors and aliases are not read here; write the value out\norrery.yaml:4: spec path `components`: anchors and aliases are not read here; write the value out"},
		{"merge key", head + "node:\n  <<: {memory: 1Gi}\n", "orrery.yaml:4: spec path `node.<<`: no such field; known here: memory"},
		{"no servers", head + "servers: 0\n", "orrery.yaml:3: spec path `servers`: want 1, 3, 5 or 7, got 0; a cluster needs a server to run its control plane"},
		{"2 servers", head + "servers: 2\n", "orrery.yaml:3: spec path `servers`: want 1, 3, 5 or 7, got 2; an even number survives no more failures than 1 (a majority of 2 is 2), so say 1 or 3"},
		{"4 servers", head + "servers: 4\n", "orrery.yaml:3: spec path `servers`: want 1, 3, 5 or 7, got 4; an even number survives no more failures than 3 (a majority of 4 is 3), so say 3 or 5"},
		{"9 servers", head + "servers: 9\n", "orrery.yaml:3: spec path `servers`: want 1, 3, 5 or 7, got 9; more etcd members make every write slower; add agents instead"},
		{"negative agents", head + "agents: -1\n", "orrery.yaml:3: spec path `agents`: want 0 or more, got -1"},
		{"too many nodes", head + "agents: 48\n", "orrery.yaml:3: spec path `agents`: want at most 50 nodes in all, got 3 servers and 48 agents"},
		{"name", head + "name: " + long + "\n", "orrery.yaml:3: spec path `name`: want at most 20 lower case letters, digits and \"-\", beginning with a letter and not ending in \"-\", such as \"local\"; got \"" + long + "\""},
		{"path as name", head + "name: ../x\n", "orrery.yaml:3: spec path `name`: want at most 20 lower case letters, digits and \"-\", beginning with a letter and not ending in \"-\", such as \"local\"; got \"../x\""},
		{"driver", head + "driver: Natve\n", "orrery.yaml:3: spec path `driver`: want a driver such as native or existing: lower case letters, digits and \"-\", at most 63; got \"Natve\""},
		{"durability", head + "durability: none\n", "orrery.yaml:3: spec path `durability`: want \"full\" or \"fast\", got \"none\""},
		{"no zones", head + "zones: []\n", "orrery.yaml:3: spec path `zones`: want at least one zone, such as [a, b, c]; leave the field out for the default"},
		{"zone twice", head + "zones:\n- a\n- b\n- a\n", "orrery.yaml:6: spec path `zones[2]`: \"a\" is already at zones[0]; name it once"},
		{"zone", head + "zones: [a, B]\n", "orrery.yaml:3: spec path `zones[1]`: want a zone such as a: lower case letters, digits and \"-\", at most 63; got \"B\""},
		{"memory", head + "node: {memory: 4 GB}\n", "orrery.yaml:3: spec path `node.memory`: want a quantity such as 4Gi or 512Mi, got \"4 GB\""},
		{"little memory", head + "node: {memory: 4M}\n", "orrery.yaml:3: spec path `node.memory`: want at least 512Mi, or the kubelet evicts what the platform needs; got \"4M\""},
		{"CIDR", head + "network:\n  pods: 10.244.0.0\n", "orrery.yaml:4: spec path `network.pods`: want an IPv4 CIDR such as 10.244.0.0/16, got \"10.244.0.0\""},
		{"IPv6", head + "network:\n  pods: fd00::/48\n", "orrery.yaml:4: spec path `network.pods`: want an IPv4 CIDR such as 10.244.0.0/16, got \"fd00::/48\""},
		{"host bits", head + "network:\n  nodes: 10.89.0.1/24\n", "orrery.yaml:4: spec path `network.nodes`: want the first address of the range, 10.89.0.0/24, got \"10.89.0.1/24\""},
		{"overlap", head + "network:\n  pods: 10.96.0.0/12\n", "orrery.yaml:4: spec path `network.services`: 10.96.0.0/16 overlaps network.pods (10.96.0.0/12); want ranges that share no address"},
		{"loopback", head + "network:\n  services: 127.1.0.0/16\n", "orrery.yaml:4: spec path `network.services`: want a private range such as 10.96.0.0/16, got \"127.1.0.0/16\", which holds loopback addresses (127.0.0.0/8)"},
		{"few node addresses", head + "network:\n  nodes: 10.89.0.0/25\n", "orrery.yaml:4: spec path `network.nodes`: want /8 to /24, got \"10.89.0.0/25\"; the nodes' addresses begin at the eleventh"},
		{"few pods", head + "network:\n  pods: 10.244.0.0/22\n", "orrery.yaml:4: spec path `network.pods`: want room for a /24 for each of 5 nodes (/21 or larger), got \"10.244.0.0/22\""},
		{"services", head + "network:\n  services: 10.0.0.0/8\n", "network.services`: want /12 to /24 (the API server takes no larger range), got \"10.0.0.0/8\""},
		{"low port", head + "ports: {api: 443}\n", "orrery.yaml:3: spec path `ports.api`: want 1024 to 65535, or 0 for a free one, got 443"},
		{"high port", head + "ports: {registry: 70000}\n", "orrery.yaml:3: spec path `ports.registry`: want 1024 to 65535, or 0 for a free one, got 70000"},
		{"same port", head + "ports: {api: 5000, registry: 5000}\n", "orrery.yaml:3: spec path `ports.registry`: 5000 is ports.api too; want another, or 0 for a free one"},
		{"overlay", head + "overlay: ../prod\n", "orrery.yaml:3: spec path `overlay`: want a folder of infra/k8s/overlays such as local: lower case letters, digits and \"-\", at most 63; got \"../prod\""},
		{"sources", head + "images: {sources: [registri]}\n", "orrery.yaml:3: spec path `images.sources[0]`: want \"bundle\", \"registry\" or \"source\", got \"registri\"; did you mean \"registry\"?"},
		{"no sources", head + "images: {sources: []}\n", "orrery.yaml:3: spec path `images.sources`: want at least one of bundle, registry and source; leave the field out for the default"},
		{"source twice", head + "images: {sources: [source, source]}\n", "orrery.yaml:3: spec path `images.sources[1]`: \"source\" is already at images.sources[0]; name it once"},
		{"registry", head + "images: {registry: 'https://ghcr.io/x'}\n", "orrery.yaml:3: spec path `images.registry`: must be a host and a path, such as ghcr.io/acme/orrery: image reference \"https://ghcr.io/x/x\": must not name a scheme; begin with the registry's host"},
		{"registry without a host", head + "images: {registry: acme/orrery}\n", "orrery.yaml:3: spec path `images.registry`: must begin with a registry's host, such as ghcr.io/acme/orrery; got \"acme/orrery\""},
		{"verify", head + "images: {verify: 'off'}\n", "orrery.yaml:3: spec path `images.verify`: want \"enforce\" or \"warn\", got \"off\""},
		{"k3d of another driver", head + "k3d: {}\n", "orrery.yaml:3: spec path `k3d`: is for driver: k3d, and the driver is \"native\"; leave one of them out"},
		{"nodes by tag", head + "driver: k3d\nk3d:\n  image: rancher/k3s:v1.37.1-k3s1\n", "orrery.yaml:5: spec path `k3d.image`: image reference \"rancher/k3s:v1.37.1-k3s1\" has no digest; add @sha256:… and 64 hexadecimal digits, so that it always means the same content"},
		{"allowed by tag", head + "images:\n  allow:\n  - ghcr.io/x:1\n", "orrery.yaml:5: spec path `images.allow[0]`: image reference \"ghcr.io/x:1\" has no digest; add @sha256:… and 64 hexadecimal digits, so that it always means the same content"},
		{"allow", head + "images:\n  allow: [ghcr.io/x@sha256:1]\n", "orrery.yaml:4: spec path `images.allow[0]`: image reference \"ghcr.io/x@sha256:1\": what follows @ must be sha256: and 64 hexadecimal digits in lower case"},
		{"no builder", head + "images: {builders: [local]}\n", "orrery.yaml:3: spec path `images.builders[0]`: want the URI that a provenance names its builder by, such as https://orrery.dev/builder/local, got \"local\""},
		{"no key file", head + "images: {trustedKeys: ['']}\n", "orrery.yaml:3: spec path `images.trustedKeys[0]`: want a PEM file with a public key, got nothing"},
		{"password", head + "images: {password: {sops: a}}\n", "orrery.yaml:3: spec path `images.password.key`: want the name of the value in images.password.sops, got nothing"},
		{"password in clear", head + "images: {password: hunter2}\n", "orrery.yaml:3: spec path `images.password`: want a mapping, got \"hunter2\""},
		{"profile", head + "profile: ful\n", "orrery.yaml:3: spec path `profile`: want \"core\", \"platform\" or \"full\", got \"ful\"; did you mean \"full\"?"},
		{"profile and components", head + "profile: core\ncomponents: [nats]\n", "orrery.yaml:3: spec path `profile`: components lists what to deploy one by one; leave one of the two out"},
		{"component", head + "components: [nats, Nats]\n", "orrery.yaml:3: spec path `components[1]`: want a component such as nats: lower case letters, digits and \"-\", at most 63; got \"Nats\""},
		{"key", head + "[a]: b\n", "orrery.yaml:3: want field names, got a list as a key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(c.doc), "orrery.yaml")
			if err == nil {
				t.Fatalf("accepted:\n%s", c.doc)
			}
			if got := err.Error(); got != c.want && !(c.name == "services" && strings.Contains(got, c.want)) {
				t.Errorf("\n got %s\nwant %s", got, c.want)
			}
		})
	}
}

// One run tells everything that is wrong, with the line of each.
func TestAllMistakesAtOnce(t *testing.T) {
	_, err := Parse([]byte(head+`name: Upper
servers: 2
agents: many
zones: [a, a]
network:
  nodes: 10.244.1.0/24
  pods: nonsense
  egres: true
durability: slow
`), "o.yaml")
	var lines []int
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		f, ok := errors.AsType[*FieldError](e)
		if !ok {
			t.Fatalf("%v is no field error", e)
		}
		lines = append(lines, f.Line)
	}
	// Reading first, then the values; a field that could not be read is named once.
	if d := cmp.Diff([]int{5, 10, 3, 4, 6, 9, 11}, lines); d != "" {
		t.Errorf("lines:\n%s\n%v", d, err)
	}
}

func TestTopology(t *testing.T) {
	e := Default()
	var got []string
	for _, n := range e.Topology() {
		got = append(got, fmt.Sprintln(n.Index, n.Name, n.Role, n.Zone, n.Rack, n.Address, n.PodCIDR))
	}
	want := []string{
		"1 server1 server a a-1 10.89.0.11 10.244.0.0/24\n",
		"2 server2 server b b-1 10.89.0.12 10.244.1.0/24\n",
		"3 server3 server c c-1 10.89.0.13 10.244.2.0/24\n",
		"4 agent1 agent a a-2 10.89.0.14 10.244.3.0/24\n",
		"5 agent2 agent b b-2 10.89.0.15 10.244.4.0/24\n",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, c := range []struct {
		what      string
		got, want netip.Addr
	}{
		{"gateway", e.Gateway(), netip.MustParseAddr("10.89.0.1")},
		{"DNS", e.ClusterDNS(), netip.MustParseAddr("10.96.0.10")},
		{"API", e.APIServiceIP(), netip.MustParseAddr("10.96.0.1")},
	} {
		if c.got != c.want {
			t.Errorf("%s %s, want %s", c.what, c.got, c.want)
		}
	}
}

// The largest topology has distinct addresses inside the ranges.
func TestTopologyFits(t *testing.T) {
	e := Default()
	agents := maxNodes - 7
	e.Servers, e.Agents = 7, &agents
	e.Network.Nodes, e.Network.Pods = "192.168.255.0/24", "172.16.192.0/18"
	if err := e.Validate(); err != nil {
		t.Fatal(err)
	}
	nodes, pods := netip.MustParsePrefix(e.Network.Nodes), netip.MustParsePrefix(e.Network.Pods)
	seen := map[string]bool{}
	for _, n := range e.Topology() {
		if !nodes.Contains(n.Address) || !pods.Contains(n.PodCIDR.Addr()) || n.PodCIDR != n.PodCIDR.Masked() {
			t.Errorf("%s: %s %s outside its range", n.Name, n.Address, n.PodCIDR)
		}
		for _, key := range []string{n.Name, n.Address.String(), n.PodCIDR.String()} {
			if seen[key] {
				t.Errorf("%s twice", key)
			}
			seen[key] = true
		}
	}
	if len(e.Topology()) != maxNodes {
		t.Errorf("%d nodes", len(e.Topology()))
	}
}

func FuzzParse(f *testing.F) {
	defaults, err := yaml.Marshal(Default())
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{string(defaults), head, head + "a: &a [*a]\n", "{}", "---\n---\n", head + "agents: 0x10\nnode: {memory: 1e3}\n", "? [a]\n: b\n", head + "network: {pods: 0.0.0.0/0}\n", "!!binary x", "\xff\xfe"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := Parse(data, "orrery.yaml")
		if err != nil {
			if !strings.HasPrefix(err.Error(), "orrery.yaml") {
				t.Errorf("an error without the file's name: %v", err)
			}
			return
		}
		if err := e.Validate(); err != nil {
			t.Errorf("loaded, but not valid: %v", err)
		}
		nodes, pods := netip.MustParsePrefix(e.Network.Nodes), netip.MustParsePrefix(e.Network.Pods)
		for _, n := range e.Topology() {
			if !nodes.Contains(n.Address) || !pods.Contains(n.PodCIDR.Addr()) {
				t.Errorf("%s is outside the ranges: %s %s", n.Name, n.Address, n.PodCIDR)
			}
		}
		again, err := yaml.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(again, ""); err != nil {
			t.Errorf("written and read again: %v\n%s", err, again)
		}
	})
}
