package kube

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// multicall names the variable with the path of the Kubernetes multi-call binary (etcd,
// kube-apiserver, …): what `orrery up` builds. The tests below run against a real API server.
const multicall = "ORRERY_TEST_KUBERNETES"

func TestMain(m *testing.M) {
	code := m.Run()
	cluster.stop()
	if code == 0 {
		err := goleak.Find()
		for limit := time.Now().Add(5 * time.Second); err != nil && time.Now().Before(limit); { // spdystream takes a second to end
			err = goleak.Find()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

var cluster testCluster

// testCluster is one etcd and one API server for all tests of the package, without nodes.
type testCluster struct {
	once, controllersOnce sync.Once
	err, controllersErr   error
	dir, kubeconfig       string
	ctx                   context.Context
	cancel                context.CancelFunc
	processes             sync.WaitGroup
}

// connect starts the cluster unless it runs, and gives a client.
func connect(tb testing.TB, opts ...Option) *Client {
	tb.Helper()
	binary := os.Getenv(multicall)
	if binary == "" {
		tb.Skipf("needs a real API server: set %s to the Kubernetes multi-call binary", multicall)
	}
	cluster.once.Do(func() { cluster.err = cluster.start(binary) })
	if cluster.err != nil {
		tb.Fatal(cluster.err)
	}
	c, err := Connect(cluster.kubeconfig, opts...)
	if err != nil {
		tb.Fatal(err)
	}
	c.settle = 500 * time.Millisecond
	tb.Cleanup(c.Close)
	return c
}

// withControllers adds the controllers that finish deletions.
func withControllers(tb testing.TB) {
	tb.Helper()
	cluster.controllersOnce.Do(func() {
		port, err := freePort()
		if err != nil {
			cluster.controllersErr = err
			return
		}
		cluster.controllersErr = cluster.run(os.Getenv(multicall), "kube-controller-manager", "--kubeconfig="+cluster.kubeconfig, "--leader-elect=false",
			"--bind-address=127.0.0.1", "--secure-port="+port, "--authentication-skip-lookup",
			"--controllers=garbage-collector-controller,namespace-controller",
			"--kube-api-qps=200", "--kube-api-burst=400")
	})
	if cluster.controllersErr != nil {
		tb.Fatal(cluster.controllersErr)
	}
}

// freePort is below the range that the kernel gives to outgoing connections, one of which
// could take it before its program listens.
func freePort() (port string, err error) {
	for range 100 {
		var l net.Listener
		port = strconv.Itoa(18000 + mathrand.IntN(14000))
		if l, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", port)); err == nil {
			return port, l.Close()
		}
	}
	return "", err
}

func (t *testCluster) start(binary string) error {
	t.ctx, t.cancel = context.WithCancel(context.Background())
	var err error
	if t.dir, err = os.MkdirTemp("", "orrery-kube"); err != nil {
		return err
	}
	var ports [3]string
	for i := range ports {
		if ports[i], err = freePort(); err != nil {
			return err
		}
	}
	etcd, peer, api := "http://127.0.0.1:"+ports[0], "http://127.0.0.1:"+ports[1], "https://127.0.0.1:"+ports[2]
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	file := func(name, text string) string {
		path := filepath.Join(t.dir, name)
		err = errors.Join(err, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	sa := file("sa.key", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	tokens := file("tokens.csv", "secret,admin,admin,system:masters\n")
	t.kubeconfig = file("kubeconfig", fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: %q, insecure-skip-tls-verify: true}}]
users: [{name: test, user: {token: secret}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
current-context: test
`, api))
	if err != nil {
		return err
	}
	err = errors.Join(
		t.run(binary, "etcd", "--data-dir="+filepath.Join(t.dir, "etcd"), "--unsafe-no-fsync", "--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
			"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer),
		t.run(binary, "kube-apiserver", "--etcd-servers="+etcd, "--bind-address=127.0.0.1", "--secure-port="+ports[2], "--cert-dir="+filepath.Join(t.dir, "certs"),
			"--service-cluster-ip-range="+testFacts.ServiceCIDR, "--token-auth-file="+tokens, "--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount",
			"--service-account-issuer=https://test", "--service-account-key-file="+sa, "--service-account-signing-key-file="+sa))
	if err != nil {
		return err
	}
	c, err := Connect(t.kubeconfig)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.ctx, 5*time.Minute)
	defer cancel()
	return c.retry(ctx, "wait for the API server", func(ctx context.Context) error {
		if _, err := c.RawGet(ctx, "/readyz"); err != nil {
			return fmt.Errorf("%w: %w", errNotYet, err)
		}
		_, err := c.Get(ctx, "v1", "Namespace", "", "kube-system")
		if err == nil {
			_, err = c.Get(ctx, "v1", "Namespace", "", "default")
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errNotYet, err)
		}
		return nil
	})
}

func (t *testCluster) run(binary string, args ...string) error {
	// The server ends with its standard input, so also when the test binary is killed. Who
	// sees to that outlives what timeout(1) sends to all of them.
	const leash = `exec 3<&0; "$@" & pid=$!; (trap '' TERM INT; read _ <&3; kill -9 $pid) 2>/dev/null & wait $pid`
	cmd := exec.CommandContext(t.ctx, "sh", append([]string{"-c", leash, "sh", binary}, args...)...)
	log, err := os.Create(filepath.Join(t.dir, args[0]+".log"))
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = log, log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return errors.Join(err, log.Close())
	}
	cmd.Cancel, cmd.WaitDelay = stdin.Close, 10*time.Second
	if err := cmd.Start(); err != nil {
		return errors.Join(err, log.Close())
	}
	t.processes.Go(func() {
		err := cmd.Wait()
		if t.ctx.Err() == nil {
			text, _ := os.ReadFile(log.Name())
			lines := strings.Split(string(bytes.TrimSpace(text)), "\n")
			fmt.Fprintf(os.Stderr, "%s ended: %v\n%s\n", args[0], err, strings.Join(lines[max(0, len(lines)-10):], "\n"))
		}
		log.Close()
	})
	return nil
}

func (t *testCluster) stop() {
	if t.cancel == nil {
		return
	}
	t.cancel()
	t.processes.Wait()
	os.RemoveAll(t.dir)
}
