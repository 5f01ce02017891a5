package e2e

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// k3dNodes is a cluster of containers whose network enforces policies.
const k3dNodes = "driver: k3d\nservers: 1\nagents: 1\nprofile: core\nnetwork: {plugin: cilium, nodes: 10.87.0.0/24}\n"

// TestK3d is the life of a platform whose nodes are containers of k3d, on the engine that is here.
func TestK3d(t *testing.T) {
	needK3d(t)
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

	// All of nodes in containers is seen, and nothing is found that has no reason.
	report := decode[struct {
		Findings, Skipped []struct{ Check, Object, Detail, Reason string }
	}](t, e.try(t, "audit", "-o", "json").stdout)
	if len(report.Findings)+len(report.Skipped) > 0 {
		t.Errorf("audit: found %+v, did not see %+v", report.Findings, report.Skipped)
	}

	// Of the containers the load balancer holds nothing: it is made anew.
	if _, err := engineAt(t.Context(), http.MethodDelete, "/containers/k3d-orrery-"+e.name+"-serverlb?force=true&v=true", ""); err != nil {
		t.Fatal(err)
	}
	e.up(t)
	if out := e.run(t, "kubectl", "get", "configmap", "kept", "-o", "jsonpath={.data.a}"); out != "b" {
		t.Errorf("behind a new load balancer: %q", out)
	}

	// What else somebody removed is named, and nothing else is done.
	if _, err := engineAt(t.Context(), http.MethodDelete, "/containers/k3d-orrery-"+e.name+"-agent-0?force=true&v=true", ""); err != nil {
		t.Fatal(err)
	}
	if r := e.try(t, "up"); r.code == 0 || !strings.Contains(r.stderr, "somebody removed agent1") {
		t.Errorf("up without a node's container: %v", r)
	}

	e.down(t)
	if b, err := os.ReadFile(userKubeconfig()); err == nil && strings.Contains(string(b), e.name) {
		t.Error("the person's kubeconfig still has the cluster")
	}
	for _, kind := range []string{"/containers/json?all=true", "/networks", "/volumes"} {
		if all, err := engineAt(t.Context(), http.MethodGet, kind, ""); err != nil || strings.Contains(all, e.name) {
			t.Errorf("the engine's %s after down: %v %s", kind, err, all)
		}
	}
}

func needK3d(t *testing.T) {
	t.Helper()
	if skipped != "" {
		t.Skip(skipped)
	}
	if _, err := exec.LookPath("k3d"); err != nil {
		t.Skip("k3d is not in PATH")
	}
	if _, err := engineAt(t.Context(), http.MethodGet, "/info", ""); err != nil {
		t.Skipf("no container engine answers: %v", err)
	}
}

// TestK3dRefused is what cannot be, told by doctor before anything is made.
func TestK3dRefused(t *testing.T) {
	needK3d(t)
	e := newEnvironment(t, "k3d-no", k3dNodes+"ports: {api: 29443, registry: 29500}\n")
	refused := func(t *testing.T, says string) {
		t.Helper()
		if r := e.try(t, "up"); r.code == 0 || !strings.Contains(r.stdout+r.stderr, says) {
			t.Errorf("want %q: %v", says, r)
		}
		if _, err := os.Stat(e.state("k3d.json")); err == nil {
			t.Error("something was begun")
		}
	}
	t.Run("engine away", func(t *testing.T) {
		t.Setenv("DOCKER_HOST", "unix://"+filepath.Join(t.TempDir(), "none"))
		refused(t, "no container engine answers")
	})
	t.Run("k3d too old", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "k3d"), []byte("#!/bin/sh\necho k3d version v5.7.5\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
		refused(t, "k3d is v5.7.5")
	})
	t.Run("port in use", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:29443")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		refused(t, "ports.api")
	})
	t.Run("cluster of somebody else", func(t *testing.T) {
		tag := loadEmptyImage(t)
		name := "k3d-orrery-" + e.name + "-server-0"
		body := fmt.Sprintf(
			`{"Image": %q, "Cmd": ["/x"], "Labels": {"app": "k3d", "k3d.cluster": "orrery-%s", "k3d.role": "server"}}`, tag, e.name)
		if _, err := engineAt(t.Context(), http.MethodPost, "/containers/create?name="+name, body); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = engineAt(context.Background(), http.MethodDelete, "/containers/"+name, "") })
		refused(t, "this environment did not make")
		e.try(t, "down")
		if _, err := engineAt(t.Context(), http.MethodGet, "/containers/"+name+"/json", ""); err != nil {
			t.Errorf("it is not left alone: %v", err)
		}
	})
}

// loadEmptyImage gives the engine an image with nothing in it, for as long as the test runs.
func loadEmptyImage(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	if err := tar.NewWriter(&b).Close(); err != nil {
		t.Fatal(err)
	}
	const tag = "orrery-e2e-empty:1"
	if _, err := engineAt(t.Context(), http.MethodPost, "/images/create?fromSrc=-&repo=orrery-e2e-empty&tag=1", b.String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = engineAt(context.Background(), http.MethodDelete, "/images/"+tag, "") })
	return tag
}

// engineAt asks the engine that k3d finds.
func engineAt(ctx context.Context, method, path, body string) (string, error) {
	host, err := url.Parse(cmp.Or(os.Getenv("DOCKER_HOST"), "unix:///var/run/docker.sock"))
	if err != nil {
		return "", err
	}
	network, address := host.Scheme, cmp.Or(host.Host, host.Path)
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://engine"+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	if strings.HasPrefix(body, "{") {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, b)
	}
	return string(b), err
}
