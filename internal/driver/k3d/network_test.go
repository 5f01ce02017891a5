package k3d

import (
	"archive/tar"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/orrery-dev/orrery/internal/spec"
)

// wires is an engine that knows networks, and who has which address in them.
type wires struct {
	mu         sync.Mutex
	networks   map[string]map[string]string // container → address
	containers []object
	done       []string
	lists      int
	late       int // lists of containers are empty for as long
}

func (w *wires) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, apiVersion)
	var body struct {
		Name, Container string
		EndpointConfig  struct{ IPAMConfig struct{ IPv4Address string } }
		IPAM            struct {
			Config []struct{ Subnet, Gateway string }
		}
	}
	_ = json.NewDecoder(r.Body).Decode(&body)
	say := func(code int, message string) {
		out.WriteHeader(code)
		_ = json.NewEncoder(out).Encode(object{"message": message})
	}
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case path == "/containers/json":
		if w.lists++; w.lists <= w.late {
			_, _ = io.WriteString(out, "[]")
			return
		}
		_ = json.NewEncoder(out).Encode(w.containers)
	case path == "/networks/create":
		w.networks[body.Name] = map[string]string{"subnet": body.IPAM.Config[0].Subnet, "gateway": body.IPAM.Config[0].Gateway}
	case parts[0] == "containers":
		w.done = append(w.done, parts[2]+" "+parts[1])
	case parts[0] != "networks" || w.networks[parts[1]] == nil:
		say(http.StatusNotFound, "no such thing: "+path)
	case len(parts) == 2:
		_, _ = io.WriteString(out, "{}")
	case parts[2] == "disconnect" && w.networks[parts[1]][body.Container] == "":
		say(http.StatusForbidden, "container "+body.Container+" is not connected to network "+parts[1])
	case parts[2] == "disconnect":
		delete(w.networks[parts[1]], body.Container)
	case parts[2] == "connect" && w.networks[parts[1]][body.Container] != "":
		say(http.StatusForbidden, "endpoint with name "+body.Container+" already exists")
	case parts[2] == "connect":
		w.networks[parts[1]][body.Container] = body.EndpointConfig.IPAMConfig.IPv4Address
	}
}

func (w *wires) serve(t *testing.T) {
	t.Helper()
	serveEngine(t, w.ServeHTTP)
}

func serveEngine(t *testing.T, answer http.HandlerFunc) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: answer}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	t.Setenv("DOCKER_HOST", "unix://"+socket)
}

// oneAndOne is an environment of a server and an agent, and its containers.
func oneAndOne(state string) (spec.Environment, []object) {
	e := environment("demo")
	agents := 1
	e.Servers, e.Agents, e.Network.Nodes = 1, &agents, "10.85.0.0/24"
	var all []object
	for name, role := range map[string]string{"server-0": "server", "agent-0": "agent", "serverlb": "loadbalancer"} {
		all = append(all, object{
			"Id": "id-" + name, "Names": []string{"/k3d-orrery-demo-" + name}, "State": state,
			"Labels": object{labelRole: role, labelID: "mine"},
		})
	}
	return e, all
}

// TestPin: containers that k3d gives no address have one before they start, which no server can come to; one
// that runs already is started anew for it.
func TestPin(t *testing.T) {
	for _, state := range []string{"created", "running"} {
		e, all := oneAndOne(state)
		w := &wires{networks: map[string]map[string]string{"k3d-orrery-demo": {"k3d-orrery-demo-agent-0": "any"}}, containers: all, late: 4}
		w.serve(t)
		if err := newDriver(t, e).pin(t.Context(), "mine"); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"k3d-orrery-demo-agent-0": "10.85.0.252", "k3d-orrery-demo-serverlb": "10.85.0.253"}
		if got := w.networks["k3d-orrery-demo"]; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: addresses %v, want %v", state, got, want)
		}
		if (len(w.done) == 4) != (state == "running") {
			t.Errorf("%s: %v", state, w.done)
		}
	}
}

// TestANetworkThatSomebodyRemoved is made anew with the addresses of before.
func TestANetworkThatSomebodyRemoved(t *testing.T) {
	e, all := oneAndOne("exited")
	w := &wires{networks: map[string]map[string]string{}, containers: all}
	w.serve(t)
	d := newDriver(t, e)
	s, err := d.look(t.Context(), "mine")
	if err != nil {
		t.Fatal(err)
	}
	s.mirror = &container{Names: []string{"/" + mirrorName("demo")}}
	m := memory{ID: "mine", Made: true, Addresses: map[string]string{
		"k3d-orrery-demo-server-0": "10.85.0.3", "k3d-orrery-demo-agent-0": "10.85.0.252", "k3d-orrery-demo-serverlb": "10.85.0.253",
	}}
	want := map[string]string{
		"k3d-orrery-demo-server-0": "10.85.0.3", "k3d-orrery-demo-agent-0": "10.85.0.252", "k3d-orrery-demo-serverlb": "10.85.0.253",
		"k3d-orrery-demo-mirror": "10.85.0.254", "subnet": "10.85.0.0/24", "gateway": "10.85.0.1",
	}
	for range 2 { // a second time there is nothing to do
		if err := d.mendNetwork(t.Context(), m, s); err != nil {
			t.Fatal(err)
		}
		if got := w.networks["k3d-orrery-demo"]; !reflect.DeepEqual(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		want["kept"] = "x"
		w.networks["k3d-orrery-demo"]["kept"] = "x"
	}
}

// TestALoadBalancerThatSomebodyRemoved is made anew as k3d makes it, and told about the servers.
func TestALoadBalancerThatSomebodyRemoved(t *testing.T) {
	const name = "k3d-orrery-demo-serverlb"
	e, all := oneAndOne("running")
	all = slices.DeleteFunc(all, func(c object) bool { return c["Id"] == "id-serverlb" })
	var created struct {
		Image, Hostname string
		Labels          map[string]string
		HostConfig      struct {
			PortBindings map[string][]struct{ HostIp, HostPort string }
		} //nolint:revive // the API's names
		NetworkingConfig struct {
			EndpointsConfig map[string]struct{ IPAMConfig struct{ IPv4Address string } }
		}
	}
	files := map[string]string{}
	var done []string
	serveEngine(t, func(out http.ResponseWriter, r *http.Request) {
		switch path := strings.TrimPrefix(r.URL.Path, apiVersion); {
		case path == "/containers/json":
			_ = json.NewEncoder(out).Encode(all)
		case path == "/containers/create" && r.URL.Query().Get("name") == name:
			_ = json.NewDecoder(r.Body).Decode(&created)
			_, _ = io.WriteString(out, `{"Id": "new"}`)
		case path == "/containers/new/archive":
			in := tar.NewReader(r.Body)
			for h, err := in.Next(); err == nil; h, err = in.Next() {
				b, _ := io.ReadAll(in)
				files[r.URL.Query().Get("path")+h.Name] = string(b)
			}
		default:
			done = append(done, r.Method+" "+path)
			_, _ = io.WriteString(out, "{}")
		}
	})
	e.K3d = &spec.K3d{LoadBalancer: "ghcr.io/k3d-io/k3d-proxy@sha256:" + strings.Repeat("a", 64)}
	d := newDriver(t, e)
	s, err := d.look(t.Context(), "mine")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second time there is nothing to do
		if err := d.mendBalancer(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if l := created.Labels; created.Image != e.K3d.LoadBalancer || created.Hostname != name ||
		l[labelCluster] != "orrery-demo" || l[labelRole] != "loadbalancer" {
		t.Errorf("%+v", created)
	}
	if at := created.HostConfig.PortBindings["6443/tcp"]; len(at) != 1 || at[0].HostIp != "127.0.0.1" || at[0].HostPort != "16443" {
		t.Errorf("ports %+v", at)
	}
	if at := created.NetworkingConfig.EndpointsConfig["k3d-orrery-demo"].IPAMConfig.IPv4Address; at != "10.85.0.253" {
		t.Errorf("address %q", at)
	}
	if !strings.Contains(files["/etc/confd/values.yaml"], "6443.tcp:\n        - k3d-orrery-demo-server-0\n") {
		t.Errorf("%v", files)
	}
	if c := s.nodes[name]; c.ID != "new" || c.State == "running" {
		t.Errorf("it would not be started: %+v", c)
	}
}

// TestImagesByDigest: what orrery.yaml names is asked for before anything is made, and pulled by its digest.
func TestImagesByDigest(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	here, there := "docker.io/rancher/k3s@"+digest, "ghcr.io/k3d-io/k3d-proxy@"+digest
	engineOf(t, map[string]any{"/images/" + here + "/json": object{}, "/distribution/" + there + "/json": object{}, "/images/create": object{"status": "pulled"}})
	e := newDriver(t, environment("demo")).engine
	named := spec.K3d{Image: "rancher/k3s:v1@" + digest, LoadBalancer: "ghcr.io/k3d-io/k3d-proxy@" + digest}
	if r := e.judgeImages(t.Context(), named); r.Err != nil || !strings.Contains(r.Message, "is in the engine") || !strings.Contains(r.Message, "can be pulled") {
		t.Errorf("%+v", r)
	}
	for _, ref := range []string{named.Image, named.LoadBalancer} {
		if got, err := e.pull(t.Context(), ref); err != nil || !strings.HasSuffix(got, "@"+digest) || strings.Contains(got, ":v1") {
			t.Errorf("pull %s: %q, %v", ref, got, err)
		}
	}
	named.Tools = "ghcr.io/k3d-io/k3d-tools@" + digest
	if r := e.judgeImages(t.Context(), named); r.Err == nil || !strings.Contains(r.Err.Error(), "k3d.tools: "+named.Tools) {
		t.Errorf("an image that cannot be had: %+v", r)
	}
	// The engine answers well before it fails: what it says in the end counts.
	engineOf(t, map[string]any{"/images/create": object{"error": "write /x: no space left on device"}})
	if _, err := newDriver(t, environment("demo")).engine.pull(t.Context(), named.Image); err == nil || !strings.Contains(err.Error(), "docker system df") {
		t.Errorf("a full disk: %v", err)
	}
}
