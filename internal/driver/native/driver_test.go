package native

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/driver/drivertest"
	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/proc"
	"github.com/orrery-dev/orrery/internal/spec"
)

// The test binary is also the supervisor and PID 1 of the nodes, and what runs in some of them.
func TestMain(m *testing.M) {
	playService(filepath.Base(os.Args[0]))
	if code, handled := Reexec(os.Args[1:]); handled {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

type memoryJournal = drivertest.Journal

// testDistribution skips unless the test can and may make real nodes.
func testDistribution(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: nodes are namespaces")
	}
	dir := os.Getenv("ORRERY_TEST_DIST")
	if dir == "" {
		t.Skip("ORRERY_TEST_DIST is not set: it names the folder of the built node distribution (kubernetes, containerd, …, cni/)")
	}
	return dir
}

// After a first start that failed, the next is a first one too, although etcd has data.
func TestReadyAfterAFailedFirstStart(t *testing.T) {
	d := &Driver{paths: paths(t.TempDir()), cluster: testCluster(t)}
	if err := os.MkdirAll(d.paths.etcd(d.cluster.Nodes[0]), 0o700); err != nil {
		t.Fatal(err)
	}
	if d.readyPath() != readyPath {
		t.Error("what comes with Kubernetes is not waited for")
	}
	if _, err := writeFile(d.paths.served(), nil); err != nil {
		t.Fatal(err)
	}
	if d.readyPath() != servingPath {
		t.Error("what was there before the start is waited for")
	}
}

// link lays the distribution into a state directory as the image builder would.
func link(t *testing.T, from, stateDir string) {
	t.Helper()
	to := paths(stateDir).distribution()
	err := filepath.WalkDir(from, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, p)
		if e.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		if real, err := filepath.EvalSymlinks(p); err == nil {
			p = real
		}
		if err := os.Link(p, filepath.Join(to, rel)); err == nil {
			return nil
		}
		return installExecutable(p, filepath.Join(to, rel))
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bpf", "crds", "llvm", "objects"} { // what cilium needs besides
		if real, err := filepath.EvalSymlinks(filepath.Join(filepath.Dir(from), name)); err == nil {
			at := filepath.Join(filepath.Dir(to), name)
			if err := os.Symlink(real, at); err != nil && !errors.Is(err, fs.ErrExist) {
				t.Fatal(err)
			}
		}
	}
	for _, name := range []string{"kubelet", "kube-proxy", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "etcd"} {
		if p := filepath.Join(to, name); !exists(p) {
			if err := os.Symlink("kubernetes", p); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// number of nodes to make, from the environment: 1 unless stated.
func number(t *testing.T, variable string) int {
	t.Helper()
	s := os.Getenv(variable)
	if s == "" {
		return 1
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// freePort is below the range that the kernel gives to outgoing connections, one of which
// could take it before its program listens.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(18000+rand.IntN(14000))))
		if err == nil {
			defer l.Close()
			return l.Addr().(*net.TCPAddr).Port
		}
	}
	t.Fatal("no port is free")
	return 0
}

func TestConformance(t *testing.T) {
	dist := testDistribution(t)
	e := spec.Named("orrery-test")
	agents := number(t, "ORRERY_TEST_AGENTS")
	e.Servers, e.Agents = number(t, "ORRERY_TEST_SERVERS"), &agents
	e.Ports = spec.Ports{API: freePort(t), Registry: freePort(t)}
	e.Node.Memory = "3Gi"
	e.Network.Plugin = cmp.Or(os.Getenv("ORRERY_TEST_PLUGIN"), spec.PluginPTP)
	// Not t.TempDir: it may be on tmpfs, and its path is too long for a socket.
	stateDir := "/var/lib/orrery/" + e.Name
	journal := &memoryJournal{}
	newDriver := func() (driver.Driver, error) {
		d, err := New(Options{Spec: e, StateDir: stateDir, Executable: os.Args[0], Journal: journal, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
			Compiler: func(context.Context) (string, error) { return "the distribution's clang", nil }})
		if err != nil {
			return nil, err
		}
		return distributing{d, func() {
			if !exists(d.paths.distribution()) {
				if err := os.MkdirAll(stateDir, 0o700); err != nil {
					t.Fatal(err)
				}
				link(t, dist, stateDir)
			}
		}}, nil
	}
	preflight(t, newDriver)
	kubectl := func(ctx context.Context, kubeconfig string, args ...string) error {
		return proc.Run(ctx, &proc.Cmd{Path: filepath.Join(dist, "kubernetes"), Args: append([]string{"kubectl", "--kubeconfig", kubeconfig}, args...)})
	}
	drivertest.Run(t, drivertest.Subject{
		New: newDriver,
		Prepared: func(ctx context.Context, o driver.Observation) error {
			return drivertest.PushImage(ctx, t.TempDir(), mirror.Mirror{Address: o.Endpoints[driver.EndpointRegistry], PasswordFile: paths(stateDir).mirrorPassword()}, "pause:1", "web:1")
		},
		Running: func(t *testing.T, o driver.Observation) { lookInside(t, dist, o) },
		Put: func(ctx context.Context, kubeconfig, key string) error {
			return kubectl(ctx, kubeconfig, "create", "configmap", key, "--from-literal=is=here")
		},
		Get: func(ctx context.Context, kubeconfig, key string) error {
			return kubectl(ctx, kubeconfig, "get", "configmap", key)
		},
		Supervisor: func() (proc.Identity, error) { return supervisorIdentity(paths(stateDir)) },
	})
	if live := journal.Live(); len(live) > 0 {
		t.Errorf("journal still has %+v", live)
	}
}

// lookInside checks what the driver promises beyond a cluster that answers.
func lookInside(t *testing.T, dist string, o driver.Observation) {
	try := func(args ...string) (string, error) {
		var out strings.Builder
		err := proc.Run(t.Context(), &proc.Cmd{Path: filepath.Join(dist, "kubernetes"), Stdout: &out,
			Args: append([]string{"kubectl", "--kubeconfig", o.Kubeconfig}, args...)})
		return strings.TrimSpace(out.String()), err
	}
	kubectl := func(args ...string) string {
		t.Helper()
		out, err := try(args...)
		if err != nil {
			t.Error(err)
		}
		return out
	}
	last := o.Nodes[len(o.Nodes)-1]
	if got := kubectl("get", "node", last.Name, "-o", "jsonpath={.status.capacity.memory}"); got != "3Gi" {
		t.Errorf("%s reports %s of memory, want 3Gi", last.Name, got)
	}
	if got := kubectl("get", "nodes", "-l", "node-role.kubernetes.io/control-plane,topology.kubernetes.io/zone=a,rack=a-1", "-o", "name"); got != "node/server1" {
		t.Errorf("server1's labels: %q", got)
	}
	// Who the server is does not matter here: what it tells to nobody does.
	anonymous := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	for path, want := range map[string]int{"/readyz": http.StatusOK, "/version": http.StatusUnauthorized} {
		r, err := anonymous.Get(o.Endpoints["api"] + path)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != want {
			t.Errorf("anonymous %s: %s, want %d", path, r.Status, want)
		}
	}
	// A person pushes an image to a port of the host and runs it under that name; logs and
	// exec go through the kubelet, the answer through the network between nodes.
	waitFor(t, func() bool { return kubectl("get", "serviceaccounts", "-o", "name") != "" }) // the controller makes it
	image := o.Endpoints["registry"] + "/web:1"
	for i, n := range []driver.Node{o.Nodes[0], last} {
		kubectl("run", fmt.Sprintf("web%d", i), "--image="+image, "--overrides", `{"spec":{"nodeName":"`+n.Name+`"}}`, "--", "serve", ":8080", n.Name)
	}
	kubectl("wait", "--for=condition=Ready", "pod/web0", "pod/web1", "--timeout=3m")
	kubectl("expose", "pod/web1", "--port=80", "--target-port=8080")
	for _, host := range []string{kubectl("get", "pod", "web1", "-o", "jsonpath={.status.podIP}") + ":8080", kubectl("get", "service", "web1", "-o", "jsonpath={.spec.clusterIP}")} {
		var got string
		waitFor(t, func() (ok bool) { // a new Service is programmed within a second or so
			var err error
			got, err = try("exec", "web0", "--", "/program", "get", "http://"+host+"/")
			return err == nil
		})
		if got != last.Name {
			t.Errorf("%s answers %q, want %q", host, got, last.Name)
		}
	}
	kubectl("delete", "service/web1", "pod/web0", "pod/web1", "--wait=false")
}

// distributing brings the distribution back before a driver needs it, as the engine does.
type distributing struct {
	*Driver
	link func()
}

func (d distributing) Prepare(ctx context.Context) error { d.link(); return d.Driver.Prepare(ctx) }
func (d distributing) Ensure(ctx context.Context) error  { d.link(); return d.Driver.Ensure(ctx) }

func preflight(t *testing.T, newDriver func() (driver.Driver, error)) {
	t.Helper()
	d, err := newDriver()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range d.Preflight(t.Context()) {
		if r := c.Probe(t.Context()); r.State == check.Failed {
			t.Skipf("this host cannot: %s: %s", c.Name, r.Message)
		}
	}
}
