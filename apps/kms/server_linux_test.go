package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// multicall names the variable with the path of the Kubernetes multi-call binary, which `orrery up` builds.
const multicall = "ORRERY_TEST_KUBERNETES"

// A real API server keeps Secrets in etcd as the plugin seals them, and reads them again when it starts anew.
func TestAPIServer(t *testing.T) {
	binary := os.Getenv(multicall)
	if binary == "" {
		t.Skipf("needs a real API server: set %s to the Kubernetes multi-call binary", multicall)
	}
	v := &vault{born: 1800000000, token: "one"}
	v.rotate(t)
	_, plugin := start(t, v)
	dir := t.TempDir()
	s := &apiServer{binary: binary, dir: dir, etcd: "http://" + freeAddress(t), address: freeAddress(t)}
	s.write(t, "tokens", "secret,admin,admin,system:masters\n")
	s.write(t, "encryption", fmt.Sprintf(`apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets, configmaps]
  providers:
  - kms: {apiVersion: v2, name: vault-transit, endpoint: "unix://%s", timeout: 3s}
`, filepath.Join(filepath.Dir(plugin.tokenFile), "s")))
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "sa", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	peer := "http://" + freeAddress(t)
	s.run(t, "etcd", "--data-dir="+filepath.Join(dir, "etcd"), "--listen-client-urls="+s.etcd, "--advertise-client-urls="+s.etcd,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer)

	stop := s.start(t)
	const sentinel = "a value that etcd must not see"
	s.ask(t, http.MethodPost, "/api/v1/namespaces/default/secrets", `{"metadata":{"name":"a"},"stringData":{"k":"`+sentinel+`"}}`, http.StatusCreated)
	s.sealed(t, sentinel)
	stop()

	v.rotate(t) // what the old version sealed opens
	stop = s.start(t)
	got := s.ask(t, http.MethodGet, "/api/v1/namespaces/default/secrets/a", "", http.StatusOK)
	if want := `"k": "YSB2YWx1ZSB0aGF0IGV0Y2QgbXVzdCBub3Qgc2Vl"`; !strings.Contains(strings.ReplaceAll(got, `":"`, `": "`), want) {
		t.Errorf("%s; want %s", got, want)
	}
	s.ask(t, http.MethodPost, "/api/v1/namespaces/default/secrets", `{"metadata":{"name":"b"},"stringData":{"k":"`+sentinel+`"}}`, http.StatusCreated)
	stop()
	s.sealed(t, sentinel)
}

type apiServer struct {
	binary, dir   string
	etcd, address string
}

func (s *apiServer) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// run starts a program that ends with the test at the latest.
func (s *apiServer) run(t *testing.T, program string, args ...string) (stop func()) {
	t.Helper()
	log, err := os.Create(filepath.Join(s.dir, program+".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(s.binary, append([]string{program}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stop = func() {
		_ = cmd.Process.Kill()
		<-ended
		ended <- nil
		log.Close()
	}
	t.Cleanup(stop)
	return stop
}

// start runs an API server until it is ready.
func (s *apiServer) start(t *testing.T) (stop func()) {
	t.Helper()
	in := func(name string) string { return filepath.Join(s.dir, name) }
	_, port, _ := net.SplitHostPort(s.address)
	stop = s.run(t, "kube-apiserver", "--etcd-servers="+s.etcd, "--bind-address=127.0.0.1", "--secure-port="+port, "--cert-dir="+in("certs"),
		"--service-cluster-ip-range=10.96.0.0/16", "--token-auth-file="+in("tokens"), "--authorization-mode=RBAC",
		"--disable-admission-plugins=ServiceAccount", "--service-account-issuer=https://test",
		"--service-account-key-file="+in("sa"), "--service-account-signing-key-file="+in("sa"),
		"--encryption-provider-config="+in("encryption"))
	var last error
	for limit := time.Now().Add(3 * time.Minute); time.Now().Before(limit); <-time.After(200 * time.Millisecond) {
		var status int
		var text string
		if status, text, last = s.try(t.Context(), http.MethodGet, "/readyz", ""); last == nil && status == http.StatusOK {
			return stop
		}
		if last == nil {
			last = errors.New(text)
		}
	}
	log, _ := os.ReadFile(in("kube-apiserver.log"))
	t.Fatalf("the API server is not ready: %v\n%s", last, log[max(0, len(log)-2000):])
	return nil
}

func (s *apiServer) try(ctx context.Context, method, path, body string) (int, string, error) {
	r, err := http.NewRequestWithContext(ctx, method, "https://"+s.address+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("Authorization", "Bearer secret")
	r.Header.Set("Content-Type", "application/json")
	c := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // G402: on loopback, and made just now
	resp, err := c.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

func (s *apiServer) ask(t *testing.T, method, path, body string, want int) string {
	t.Helper()
	status, text, err := s.try(t.Context(), method, path, body)
	if err != nil || status != want {
		t.Fatalf("%s %s: %d, %v, %s; want %d", method, path, status, err, text, want)
	}
	return text
}

// sealed looks through all that etcd has on its disk.
func (s *apiServer) sealed(t *testing.T, sentinel string) {
	t.Helper()
	found := false
	err := filepath.WalkDir(filepath.Join(s.dir, "etcd"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if bytes.Contains(text, []byte(sentinel)) {
			t.Errorf("%s has the value in plain", path)
		}
		found = found || bytes.Contains(text, []byte("k8s:enc:kms:v2:vault-transit:"))
		return err
	})
	if err != nil || !found {
		t.Errorf("nothing in etcd was sealed by the plugin (%v)", err)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
