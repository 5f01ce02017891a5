package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// k3dNodes is a cluster of containers whose network enforces policies.
const k3dNodes = "driver: k3d\nservers: 1\nagents: 1\nprofile: core\nnetwork: {plugin: cilium, nodes: 10.87.0.0/24}\n"

// TestK3d is the life of a platform whose nodes are containers of k3d, on the engine that is here.
func TestK3d(t *testing.T) {
	if skipped == "" {
		if _, err := exec.LookPath("k3d"); err != nil {
			t.Skip("k3d is not in PATH")
		}
		if _, err := engineAt(t.Context(), "/_ping"); err != nil {
			t.Skipf("no container engine answers: %v", err)
		}
	}
	e := newEnvironment(t, "k3d", k3dNodes)
	_, sum := e.up(t)
	t.Logf("up: %v", sum.Seconds)
	e.verify(t)
	addresses := func() map[string]string {
		all := map[string]string{}
		for name, n := range e.nodes(t) {
			all[name] = n.Address
		}
		return all
	}
	was := addresses()
	if len(was) != 2 || was["server1"] == "" || was["agent1"] == "" {
		t.Fatalf("nodes: %v", was)
	}
	if _, sum := e.up(t); sum.Changed {
		t.Error("a second up changed something")
	}

	// A change: one more image that pods may run is one changed policy.
	changed := k3dNodes + "images:\n  allow: [registry.example.org/tool@sha256:" + strings.Repeat("a", 64) + "]\n"
	if err := e.write(t.TempDir(), changed); err != nil {
		t.Fatal(err)
	}
	if _, sum := e.up(t); !sum.Changed {
		t.Error("up after a change changed nothing")
	}

	e.run(t, "kubectl", "create", "configmap", "kept", "--from-literal=a=b")
	e.run(t, "node", "stop", "agent1")
	if n := e.nodes(t)["agent1"]; n.Running || !n.Stopped {
		t.Errorf("a node that was stopped: %+v", n)
	}
	e.run(t, "node", "start", "agent1")
	e.becomesReady(t, restored)
	for _, name := range []string{"agent1", "server1"} { // which engines start again
		pid := e.nodes(t)[name].pid("kubelet")
		e.run(t, "node", "kill", name)
		eventually(t, name+" runs again", restored, func(context.Context) error {
			if now := e.nodes(t)[name].pid("kubelet"); now == 0 || now == pid {
				return fmt.Errorf("its kubelet is %d, and was %d", now, pid)
			}
			return nil
		})
		e.becomesReady(t, restored)
	}
	e.verify(t)

	e.run(t, "stop")
	if st := e.status(t); st.Phase != "stopped" {
		t.Errorf("after a stop it is %s", st.Phase)
	}
	e.run(t, "start")
	e.becomesReady(t, restored)
	if now := addresses(); now["server1"] != was["server1"] || now["agent1"] != was["agent1"] {
		t.Errorf("nodes were %v and are %v", was, now)
	}
	if out := e.run(t, "kubectl", "get", "configmap", "kept", "-o", "jsonpath={.data.a}"); out != "b" {
		t.Errorf("what was written before the stop: %q", out)
	}
	e.verify(t)

	e.down(t)
	if b, err := os.ReadFile(userKubeconfig()); err == nil && strings.Contains(string(b), e.name) {
		t.Error("the person's kubeconfig still has the cluster")
	}
	for _, kind := range []string{"/containers/json?all=true", "/networks", "/volumes"} {
		if all, err := engineAt(t.Context(), kind); err != nil || strings.Contains(all, e.name) {
			t.Errorf("the engine's %s after down: %v %s", kind, err, all)
		}
	}
}

// engineAt is what the engine that k3d finds says.
func engineAt(ctx context.Context, path string) (string, error) {
	host, err := url.Parse(cmp.Or(os.Getenv("DOCKER_HOST"), "unix:///var/run/docker.sock"))
	if err != nil {
		return "", err
	}
	network, address := host.Scheme, cmp.Or(host.Host, host.Path)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine"+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if path == "/_ping" {
		return resp.Status, nil
	}
	var all json.RawMessage
	err = json.NewDecoder(resp.Body).Decode(&all)
	return string(all), err
}
