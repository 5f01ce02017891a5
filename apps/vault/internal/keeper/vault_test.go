package keeper

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// kubernetes is what the keeper asks a cluster: keys of service accounts, and one Secret.
type kubernetes struct {
	*httptest.Server
	key     *rsa.PrivateKey
	secrets map[string]*secret
}

func newKubernetes(t *testing.T) *kubernetes {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	k := &kubernetes{key: key, secrets: map[string]*secret{}}
	reply := func(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, map[string]string{"issuer": "https://kubernetes.test"})
	})
	mux.HandleFunc("GET /openid/v1/jwks", func(w http.ResponseWriter, _ *http.Request) {
		n := base64.RawURLEncoding.EncodeToString(key.N.Bytes())
		e := base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes())
		reply(w, map[string]any{"keys": []map[string]string{{"kty": "RSA", "kid": "1", "n": n, "e": e}}})
	})
	secrets := "/api/v1/namespaces/platform/secrets"
	mux.HandleFunc("GET "+secrets+"/{name}", func(w http.ResponseWriter, r *http.Request) {
		if s := k.secrets[r.PathValue("name")]; s != nil {
			reply(w, s)
			return
		}
		http.NotFound(w, r)
	})
	write := func(w http.ResponseWriter, r *http.Request) {
		var s secret
		if err := json.NewDecoder(r.Body).Decode(&s); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		k.secrets[s.Metadata["name"].(string)] = &s
		reply(w, s)
	}
	mux.HandleFunc("POST "+secrets, write)
	mux.HandleFunc("PUT "+secrets+"/{name}", write)
	k.Server = httptest.NewServer(mux)
	t.Cleanup(k.Close)
	return k
}

// token is what a service account would have mounted.
func (k *kubernetes) token(t *testing.T, account, audience string) string {
	encode := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	now := time.Now()
	head := encode(map[string]string{"alg": "RS256", "kid": "1"}) + "." + encode(map[string]any{
		"iss": "https://kubernetes.test", "sub": "system:serviceaccount:platform:" + account, "aud": []string{audience},
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		"kubernetes.io": map[string]any{"namespace": "platform", "serviceaccount": map[string]any{"name": account}},
	})
	sum := sha256.Sum256([]byte(head))
	sig, err := rsa.SignPKCS1v15(rand.Reader, k.key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return head + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// node is a real Vault.
type node struct {
	url, data, seal string
	cmd             *exec.Cmd
}

func freePorts(t *testing.T, n int) (addresses []string) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		addresses = append(addresses, l.Addr().String())
	}
	return addresses
}

// certificate of every Vault here, which vouches for itself.
var certificate = sync.OnceValues(func() (cert, key []byte) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &private.PublicKey, private)
	if err != nil {
		panic(err)
	}
	bytes, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: bytes})
})

// serving writes it to files.
func serving(t *testing.T) (cert, key string) {
	dir := t.TempDir()
	c, k := certificate()
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for file, text := range map[string][]byte{cert: c, key: k} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func startVault(t *testing.T, data, seal string) *node {
	binary := os.Getenv("ORRERY_VAULT")
	if binary == "" {
		t.Skip("ORRERY_VAULT does not name a vault: go build -tags minimal -o /tmp/vault .")
	}
	ports := freePorts(t, 3)
	n := &node{url: "https://" + ports[0], data: data, seal: seal}
	cert, certKey := serving(t)
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(seal), 0o600); err != nil {
		t.Fatal(err)
	}
	n.cmd = exec.Command(binary, "-node=vault-0", "-data="+data, "-seal-key="+key, "-listen="+ports[0], "-listen-cluster="+ports[1],
		"-listen-metrics="+ports[2], "-address="+n.url, "-cluster-address=https://"+ports[1], "-log-level=warn",
		"-tls-cert="+cert, "-tls-key="+certKey, "-tls-ca="+cert)
	n.cmd.Stderr = t.Output()
	return n
}

func (n *node) run(t *testing.T) *node {
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.stop)
	return n
}

func (n *node) stop() {
	if n.cmd.ProcessState == nil {
		_ = n.cmd.Process.Signal(os.Interrupt)
		_ = n.cmd.Wait()
	}
}

// desired is what the component has applied.
func desired(t *testing.T) string {
	text, err := os.ReadFile("../../../../infra/k8s/base/vault/vault.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "vault.yaml"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// as makes a keeper that logs in as a service account with its role.
func as(t *testing.T, k *kubernetes, n *node, name, role string) *Keeper {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(k.token(t, name, "vault")), 0o600); err != nil {
		t.Fatal(err)
	}
	ca, _ := serving(t)
	kp, err := New(slog.New(slog.NewTextHandler(t.Output(), nil)), Options{
		Address: n.url, Nodes: []string{n.url}, TokenFile: token, Role: role, Secret: "vault-recovery",
		Config: desired(t), CAFile: ca,
	})
	if err != nil {
		t.Fatal(err)
	}
	return kp
}

func newPass(t *testing.T, k *kubernetes, kp *Keeper) *pass {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	return &pass{Keeper: kp, cluster: &cluster{base: k.URL, namespace: "platform", folder: dir + "/", http: k.Client()}}
}

// until repeats a pass as Run does, and returns the last error.
func until(t *testing.T, p *pass, done func(changed bool, err error) bool) error {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	said := ""
	for {
		changed, err := p.once(ctx)
		if err != nil && err.Error() != said {
			said = err.Error()
			t.Log(said)
		}
		if done(changed, err) {
			return err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("a minute later: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func settled(_ bool, err error) bool { return err == nil }

const someKey = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKL"

func TestNewVault(t *testing.T) {
	k := newKubernetes(t)
	n := startVault(t, t.TempDir(), someKey).run(t)
	p := newPass(t, k, as(t, k, n, "vault-keeper", "keeper"))
	_ = until(t, p, settled)

	kept := k.secrets["vault-recovery"]
	if len(kept.Data[recoveryKey]) == 0 || len(kept.Data[rootToken]) != 0 {
		t.Fatalf("the Secret has %d bytes of recovery key and %d of root token, want some and none",
			len(kept.Data[recoveryKey]), len(kept.Data[rootToken]))
	}
	if changed, err := p.once(t.Context()); changed || err != nil {
		t.Errorf("a second pass: changed %t, %v; want nothing to do", changed, err)
	}
	var out bytes.Buffer
	if err := as(t, k, n, "vault-check", "check").Check(t.Context(), &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	t.Log(out.String())
	t.Run("refused", func(t *testing.T) {
		for name, kp := range map[string]*Keeper{
			"another account":  as(t, k, n, "somebody", "keeper"),
			"an unknown role":  as(t, k, n, "vault-keeper", "admin"),
			"another audience": as(t, k, n, "vault-keeper", "keeper"),
			"another cluster":  as(t, newKubernetes(t), n, "vault-keeper", "keeper"),
		} {
			if name == "another audience" {
				if err := os.WriteFile(kp.o.TokenFile, []byte(k.token(t, "vault-keeper", "https://kubernetes.test")), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := kp.login(t.Context()); err == nil {
				t.Errorf("%s may log in", name)
			}
		}
	})
	t.Run("reader", func(t *testing.T) {
		c, err := as(t, k, n, "vault-reader", "reader").login(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s, err := c.Logical().Read("kv/data/k8s/platform/nothing"); err != nil || s != nil {
			t.Errorf("its own namespace: %v, %v; want nothing, and no error", s, err)
		}
		if _, err := c.Logical().Read("kv/data/k8s/messaging/nats"); !isStatus(err, http.StatusForbidden) {
			t.Errorf("another namespace: %v, want it refused", err)
		}
	})
}

// TestSealed seals by another key: the data stays unread, and the one key opens it again.
func TestSealed(t *testing.T) {
	k := newKubernetes(t)
	dir := t.TempDir()
	n := startVault(t, dir, someKey).run(t)
	_ = until(t, newPass(t, k, as(t, k, n, "vault-keeper", "keeper")), settled)
	n.stop()

	n = startVault(t, dir, strings.ToUpper(someKey)).run(t)
	p := newPass(t, k, as(t, k, n, "vault-keeper", "keeper"))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var err error
	for ctx.Err() == nil {
		_, err = p.once(ctx)
	}
	if err == nil || !strings.Contains(err.Error(), "sealed") {
		t.Errorf("with another key: %v, want it sealed", err)
	}
	n.stop()
	n = startVault(t, dir, someKey).run(t)
	_ = until(t, newPass(t, k, as(t, k, n, "vault-keeper", "keeper")), settled)
}

// TestLostAndRestored loses all data. The loss is not hidden by a new, empty Vault; a snapshot brings
// everything back.
func TestLostAndRestored(t *testing.T) {
	k := newKubernetes(t)
	n := startVault(t, t.TempDir(), someKey).run(t)
	keeper := as(t, k, n, "vault-keeper", "keeper")
	_ = until(t, newPass(t, k, keeper), settled)
	check, err := as(t, k, n, "vault-check", "check").login(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprint(time.Now().UnixNano())
	if _, err := check.Logical().Write("kv/data/check/kept", map[string]any{"data": map[string]any{"value": want}}); err != nil {
		t.Fatal(err)
	}
	var snapshot bytes.Buffer
	if err := keeper.Snapshot(t.Context(), &snapshot); err != nil {
		t.Fatal(err)
	}
	n.stop()

	n = startVault(t, t.TempDir(), someKey).run(t)
	p := newPass(t, k, as(t, k, n, "vault-keeper", "keeper"))
	if err := until(t, p, func(_ bool, err error) bool { return errors.Is(err, ErrLost) }); !errors.Is(err, ErrLost) {
		t.Fatalf("a Vault without data: %v, want %v", err, ErrLost)
	}
	if err := p.Restore(t.Context(), strings.NewReader("no snapshot")); err == nil {
		t.Error("something that is no snapshot is restored")
	}
	if yes, err := p.initialised(t.Context()); yes || err != nil {
		t.Fatalf("after something that is no snapshot it is initialised: %t, %v", yes, err)
	}
	if err := p.Restore(t.Context(), &snapshot); err != nil {
		t.Fatal(err)
	}
	_ = until(t, p, settled)
	check, err = as(t, k, n, "vault-check", "check").login(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s, err := check.Logical().Read("kv/data/check/kept")
	if err != nil || s == nil {
		t.Fatalf("read what was in the snapshot: %v, %v", s, err)
	}
	if data, _ := s.Data["data"].(map[string]any); data["value"] != want {
		t.Errorf("restored %v, want %s", data["value"], want)
	}
}

// TestThreeNodes has three nodes find each other once the first is initialised.
func TestThreeNodes(t *testing.T) {
	k := newKubernetes(t)
	var nodes []*node
	var join []string
	for i := range 3 {
		n := startVault(t, t.TempDir(), someKey)
		n.cmd.Args[1] = fmt.Sprintf("-node=vault-%d", i)
		nodes, join = append(nodes, n), append(join, n.url)
	}
	for _, n := range nodes {
		n.cmd.Args = append(n.cmd.Args, "-join="+strings.Join(join, ","))
		n.run(t)
	}
	keeper := as(t, k, nodes[0], "vault-keeper", "keeper")
	keeper.o.Nodes = join
	_ = until(t, newPass(t, k, keeper), settled)
	unsealed := func(n *node) {
		c, err := newClient(keeper.o, n.url)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for {
			h, err := c.Sys().HealthWithContext(ctx)
			if err == nil && h.Initialized && !h.Sealed {
				return
			}
			select {
			case <-ctx.Done():
				t.Fatalf("%s after a minute: %+v, %v", n.url, h, err)
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	for _, n := range nodes {
		unsealed(n)
	}
	if _, err := as(t, k, nodes[1], "vault-check", "check").login(t.Context()); err != nil {
		t.Error(err)
	}
}
