package native

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orrery-dev/orrery/internal/spec"
)

// playService stands in for a program of a node, when this is called by its name.
func playService(name string) {
	note := func(text string) {
		f, err := os.OpenFile(filepath.Join(serviceLogDir, "played"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			_, _ = fmt.Fprintln(f, text)
			f.Close()
		}
	}
	terminated := make(chan os.Signal, 1)
	switch name {
	case "mounts-proc": // as runc does for a pod with a user namespace
		if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	case "containerd": // and a container that takes longer to end than a node without grace has
		signal.Notify(terminated, syscall.SIGTERM)
		socket := strings.TrimPrefix(containerdSocket, "unix:")
		_ = os.MkdirAll(filepath.Dir(socket), 0o700)
		if _, err := net.Listen("unix", socket); err != nil {
			note(err.Error())
		}
		<-terminated
		note("container told")
		time.Sleep(stopTime + time.Second)
		note("container ended")
	case "kubelet":
		cmd := exec.Command("/proc/self/exe")
		cmd.Args[0] = "mounts-proc"
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
			UidMappings: []syscall.SysProcIDMap{{HostID: 65536, Size: 65536}}, GidMappings: []syscall.SysProcIDMap{{HostID: 65536, Size: 65536}},
			Credential: &syscall.Credential{NoSetGroups: true},
		}
		out, err := cmd.CombinedOutput()
		note(fmt.Sprintf("proc in a user namespace: %v %s", err, out))
		signal.Notify(terminated, syscall.SIGTERM)
		<-terminated
		note("kubelet ended")
	case "etcd", "kube-apiserver", "registry":
		signal.Notify(terminated, syscall.SIGTERM)
		<-terminated
	default:
		return
	}
	os.Exit(0)
}

// Nodes with programs that only play their parts: what they are given, and how they end.
func TestNodesAndTheirCaller(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: nodes are namespaces")
	}
	agents := 1
	e := spec.Named("orrery-played")
	e.Network.Plugin, e.Servers, e.Agents = spec.PluginPTP, 1, &agents
	e.Ports = spec.Ports{API: freePort(t), Registry: freePort(t)}
	state := filepath.Join(t.TempDir(), "state")
	d, err := New(Options{Spec: e, StateDir: state, Executable: os.Args[0], Journal: &memoryJournal{}, Grace: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if _, overlay, err := statfs(state); err != nil || overlay {
		t.Skipf("temporary files are on an overlay: %v", err)
	}
	if err := d.makeState(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"registry", "etcd", "kube-apiserver", "containerd", "kubelet"} {
		if err := installExecutable(os.Args[0], filepath.Join(d.paths.distribution(), name)); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(d.paths.distribution(), name), 0o755); err != nil { // another user runs it, too
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := d.Delete(context.Background()); err != nil { // also when the test failed
			t.Error(err)
		}
	})
	umask := syscall.Umask(0o077)
	err = d.ensureSupervisor(t.Context())
	syscall.Umask(umask)
	if err != nil {
		if strings.Contains(err.Error(), "operation not permitted") || strings.Contains(err.Error(), "read-only") {
			t.Skipf("this machine cannot: %v", err)
		}
		t.Fatal(err)
	}
	c := newClient(d.paths)
	if err := c.post(t.Context(), "/v1/start"); err != nil {
		t.Fatal(err)
	}
	for _, n := range d.cluster.Nodes {
		if err := d.settled(t.Context(), n.Name); err != nil {
			t.Fatal(err)
		}
	}
	containerd := servicePID(t, d, "agent1", "containerd")
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", containerd))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(status), "Umask:\t0022") || !strings.Contains(string(status), "SigIgn:\t0000000000000000") {
		t.Errorf("a service of a node has the umask of whoever ran up: %s", status)
	}
	played := func() string {
		b, _ := os.ReadFile(filepath.Join(d.paths.node("agent1"), "log", "played"))
		return string(b)
	}
	waitFor(t, func() bool { return strings.Contains(played(), "proc in a user namespace") })
	if !strings.Contains(played(), "proc in a user namespace: <nil>") {
		t.Errorf("a pod with a user namespace gets no /proc: %s", played())
	}
	// The service stands in for a container of a pod as well.
	inner, ok := innerPID(string(status))
	if !ok {
		t.Fatal("no PID in the node")
	}
	task := fmt.Sprintf("/proc/%d/root%s/c1", containerd, taskFolder)
	if err := os.MkdirAll(task, 0o700); err != nil {
		t.Fatal(err)
	}
	config, _ := json.Marshal(map[string]any{"annotations": map[string]string{"io.kubernetes.cri.container-type": "container", annotationGrace: "10"}})
	for name, content := range map[string]string{"config.json": string(config), "init.pid": fmt.Sprint(inner)} {
		if err := os.WriteFile(filepath.Join(task, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.StopNode(t.Context(), "agent1"); err != nil {
		t.Fatal(err)
	}
	if got := played(); !strings.Contains(got, "kubelet ended\ncontainer told\ncontainer ended") {
		t.Errorf("a stop without grace: %s", got)
	}
	if err := d.StartNode(t.Context(), "agent1"); err != nil {
		t.Error(err)
	}
	// A server whose data is gone, with no other to get it from, does not start by itself.
	if err := os.MkdirAll(d.paths.etcd(d.cluster.Nodes[0]), 0o700); err != nil {
		t.Fatal(err)
	}
	d.options.Grace = 0
	if err := d.StopNode(t.Context(), "server1"); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(d.paths.etcd(d.cluster.Nodes[0])); err != nil {
		t.Fatal(err)
	}
	if err := d.node(t.Context(), "server1", "start"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		st, err := c.status(t.Context())
		return err == nil && strings.Contains(st.Nodes[0].Problem, "etcd is gone") && !st.Nodes[0].Running
	})
	if err := d.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if err := d.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	if leaks, err := d.Audit(t.Context()); err != nil || len(leaks) > 0 {
		t.Errorf("%q, %v", leaks, err)
	}
}

func servicePID(t *testing.T, d *Driver, node, service string) int {
	t.Helper()
	st, err := newClient(d.paths).status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range st.Nodes {
		for _, s := range m.Services {
			if m.Name == node && s.Name == service && s.PID > 0 {
				return s.PID
			}
		}
	}
	t.Fatalf("%s does not run on %s: %+v", service, node, st)
	return 0
}
