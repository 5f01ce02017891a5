package native

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/orrery-dev/orrery/internal/spec"
)

func testCluster(t *testing.T) cluster {
	t.Helper()
	return testClusterOf(t, spec.PluginPTP)
}

func testClusterOf(t *testing.T, plugin string) cluster {
	t.Helper()
	e := spec.Named("unit")
	e.Ports, e.Network.Plugin = spec.Ports{API: 1234, Registry: 1235}, plugin
	c, err := newCluster(e)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func certificate(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLeavesAreRenewedInTime(t *testing.T) {
	p, c := paths(t.TempDir()), testCluster(t)
	now := time.Now()
	issue := func() int {
		i := &issuer{now: func() time.Time { return now }}
		if err := credentials(i, p, c, networks[c.Plugin]); err != nil {
			t.Fatal(err)
		}
		return i.issued
	}
	all := issue()
	if n := issue(); n != 0 {
		t.Fatalf("%d certificates issued again at once", n)
	}
	kubelet := p.nodeEtc("agent1", "kubernetes", "pki", "kubelet.crt")
	first := certificate(t, kubelet)
	if life := first.NotAfter.Sub(first.NotBefore); life < 364*24*time.Hour || life > 366*24*time.Hour {
		t.Errorf("a leaf lives for %s", life)
	}
	now = now.Add(leafLife * 6 / 10)
	if n := issue(); n != 0 {
		t.Errorf("%d certificates issued with 40 %% of their life left", n)
	}
	now = now.Add(leafLife / 10)
	if n := issue(); n != all-4 { // the four authorities stay
		t.Errorf("%d certificates issued with 30 %% left, want %d", n, all-4)
	}
	if certificate(t, kubelet).SerialNumber.Cmp(first.SerialNumber) == 0 {
		t.Error("the kubelet has its old certificate")
	}
	// Another address is another certificate, for the node that it concerns only.
	c.Nodes[4].Address = c.Nodes[4].Address.Next()
	if n := issue(); n != 1 {
		t.Errorf("%d certificates issued after one address changed, want 1", n)
	}
	now = now.Add(11 * 365 * 24 * time.Hour)
	err := credentials(&issuer{now: func() time.Time { return now }}, p, c, networks[c.Plugin])
	if err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("expired authority: %v", err)
	}
}

func TestDamagedAuthorityIsNotReplaced(t *testing.T) {
	p, c := paths(t.TempDir()), testCluster(t)
	i := &issuer{now: time.Now}
	if err := credentials(i, p, c, networks[c.Plugin]); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.pki("ca.crt"), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := credentials(i, p, c, networks[c.Plugin]); err == nil {
		t.Error("no error")
	}
}

// A node has only what its services need, and nobody else can read anything.
func TestCredentialsOfNodes(t *testing.T) {
	p, c := paths(t.TempDir()), testCluster(t)
	if _, err := materialize(&issuer{now: time.Now}, p, c); err != nil {
		t.Fatal(err)
	}
	agent := []string{"ca.crt", "kube-proxy.crt", "kube-proxy.key", "kubelet.crt", "kubelet.key"}
	entries, err := os.ReadDir(p.nodeEtc("agent2", "kubernetes", "pki"))
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, e := range entries {
		have = append(have, e.Name())
	}
	if !slices.Equal(have, agent) {
		t.Errorf("an agent has %v, want %v", have, agent)
	}
	admin, err := os.ReadFile(p.pki("admin.key"))
	if err != nil {
		t.Fatal(err)
	}
	var authorities []string
	for _, n := range []string{"ca.key", "etcd-ca.key", "front-proxy-ca.key"} {
		b, err := os.ReadFile(p.pki(n))
		if err != nil {
			t.Fatal(err)
		}
		authorities = append(authorities, string(b))
	}
	err = filepath.WalkDir(string(p), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := e.Info()
		if err != nil {
			return err
		}
		if st.Mode().Perm()&0o077 != 0 && path != string(p) {
			t.Errorf("%s has mode %o", path, st.Mode().Perm())
		}
		if e.IsDir() || !strings.HasPrefix(path, p.join("nodes")) {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if string(b) == string(admin) || slices.Contains(authorities, string(b)) {
			t.Errorf("%s is a key that no node may have", path)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for _, n := range c.servers() {
		for _, o := range certificate(t, p.nodeEtc(n.Name, "kubernetes", "pki", "apiserver-kubelet-client.crt")).Subject.Organization {
			t.Errorf("the kubelets' client is in group %s", o)
		}
		serving := certificate(t, p.nodeEtc(n.Name, "kubernetes", "pki", "apiserver.crt"))
		for _, name := range []string{"127.0.0.1", n.Address.String(), c.Gateway.String(), "10.96.0.1", "kubernetes.default.svc"} {
			if err := serving.VerifyHostname(name); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestMaterializeIsIdempotent(t *testing.T) {
	p, c := paths(t.TempDir()), testCluster(t)
	for n, want := range []bool{true, false} {
		changed, err := materialize(&issuer{now: time.Now}, p, c)
		if err != nil || changed != want {
			t.Errorf("run %d: changed %t, %v", n+1, changed, err)
		}
	}
	back, err := loadCluster(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := sameShape(back, c); err != nil {
		t.Error(err)
	}
	c.Nodes = c.Nodes[:4]
	if err := sameShape(back, c); err == nil {
		t.Error("a node fewer is the same shape")
	}
}

func TestLoadClusterRefuses(t *testing.T) {
	p := paths(t.TempDir())
	for content, want := range map[string]string{"{": "damaged", `{"version":99}`: "use the orrery that wrote it"} {
		if _, err := writeFile(p.cluster(), []byte(content)); err != nil {
			t.Fatal(err)
		}
		if _, err := loadCluster(p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", content, err)
		}
	}
}

// Every file that is made once, gone or replaced under an environment that was made: an error
// that names it and the way back, which works, and nothing is changed.
func TestLostKeys(t *testing.T) {
	for _, l := range lasting {
		for name, spoil := range map[string]func(file string) error{
			"gone": os.Remove,
			"replaced": func(file string) error {
				if l.copy == "" {
					return os.Remove(file) // another one is no pair with its certificate
				}
				return os.WriteFile(file, []byte(base64.StdEncoding.EncodeToString(make([]byte, 32))), 0o600)
			},
		} {
			for _, since := range []string{"cluster.json", "etcd data"} {
				t.Run(l.name+" "+name+", known by "+since, func(t *testing.T) {
					p, c := paths(t.TempDir()), testCluster(t)
					c.Nodes = c.Nodes[:1]
					if _, err := materialize(&issuer{now: time.Now}, p, c); err != nil {
						t.Fatal(err)
					}
					if since == "etcd data" {
						if err := errors.Join(os.Remove(p.cluster()), os.MkdirAll(p.etcd(c.servers()[0]), 0o700)); err != nil {
							t.Fatal(err)
						}
					}
					file := p.pki(l.name)
					good, err := os.ReadFile(file)
					if err != nil {
						t.Fatal(err)
					}
					if err := spoil(file); err != nil {
						t.Fatal(err)
					}
					before := snapshotOf(t, string(p))
					_, err = materialize(&issuer{now: time.Now}, p, c)
					lost, ok := errors.AsType[*LostKeysError](err)
					if !ok || !slices.Equal(lost.Keys, []string{file}) || !strings.Contains(err.Error(), l.needs) {
						t.Fatalf("got %v", err)
					}
					if d := cmp.Diff(before, snapshotOf(t, string(p))); d != "" {
						t.Errorf("something was changed: %s", d)
					}
					_, command, ok := strings.Cut(err.Error(), "restore it: ")
					if ok == (l.copy == "") {
						t.Fatalf("the way back: %v", err)
					}
					if l.copy == "" {
						if err := os.WriteFile(file, good, 0o600); err != nil {
							t.Fatal(err)
						}
					} else {
						command, _, _ = strings.Cut(command, "\n")
						if out, err := exec.CommandContext(t.Context(), "sh", "-c", command).CombinedOutput(); err != nil {
							t.Fatalf("%s: %v: %s", command, err, out)
						}
					}
					if _, err := materialize(&issuer{now: time.Now}, p, c); err != nil {
						t.Errorf("after the way back: %v", err)
					}
					if b, _ := os.ReadFile(file); !bytes.Equal(bytes.TrimSpace(b), bytes.TrimSpace(good)) {
						t.Error("it is another key")
					}
				})
			}
		}
	}
}

// snapshotOf maps the files of a folder to what is in them.
func snapshotOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// API servers let in whom the authority of clients signed; nobody else does, and no agent can sign.
func TestAuthorityOfClients(t *testing.T) {
	p, c := paths(t.TempDir()), testCluster(t)
	if _, err := materialize(&issuer{now: time.Now}, p, c); err != nil {
		t.Fatal(err)
	}
	clients, err := os.ReadFile(p.pki("clients-ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(p.join("nodes"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, clients) && e.Name() != "apiserver-client-cas.crt" && e.Name() != "clients-ca.crt" {
			t.Errorf("%s trusts it too", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	trusted, err := os.ReadFile(p.nodeEtc("server2", "kubernetes", "pki", "apiserver-client-cas.crt"))
	if err != nil || !bytes.Contains(trusted, clients) || !bytes.Contains(trusted, []byte("CERTIFICATE-----\n-----BEGIN")) {
		t.Errorf("API servers trust %s, %v", trusted, err)
	}
	for name, want := range map[string]bool{"server1": true, "agent1": false} {
		if got := exists(p.nodeEtc(name, "kubernetes", "pki", "clients-ca.key")); got != want {
			t.Errorf("%s can sign: %t", name, got)
		}
	}
}

// An environment that an orrery made which knew no authority of clients gets one.
func TestAuthorityOfClientsComesLater(t *testing.T) {
	p, c := paths(t.TempDir()), testCluster(t)
	if _, err := materialize(&issuer{now: time.Now}, p, c); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"clients-ca.key", "clients-ca.crt"} {
		for _, at := range []string{p.pki(name), p.nodeEtc("server1", "kubernetes", "pki", name), p.nodeEtc("server2", "kubernetes", "pki", name), p.nodeEtc("server3", "kubernetes", "pki", name)} {
			if err := os.Remove(at); err != nil {
				t.Fatal(err)
			}
		}
	}
	if changed, err := materialize(&issuer{now: time.Now}, p, c); err != nil || !changed || !exists(p.pki("clients-ca.key")) {
		t.Errorf("changed %t, %v", changed, err)
	}
}

func TestUnservedSigners(t *testing.T) {
	for _, o := range unservedSigners() {
		if _, ok := collections[o["kind"].(string)]; !ok {
			t.Errorf("the driver makes no %v", o["kind"])
		}
	}
}

// What was interrupted before there was anything is gone on with, and a key that is none is told.
func TestKeysOfAHalfMadeEnvironment(t *testing.T) {
	p, c := paths(t.TempDir()), testCluster(t)
	if _, err := materialize(&issuer{now: time.Now}, p, c); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(p.cluster()), os.Remove(p.pki("sa.key")), os.Remove(p.pki(keyringFile))); err != nil {
		t.Fatal(err)
	}
	if _, err := materialize(&issuer{now: time.Now}, p, c); err != nil {
		t.Errorf("interrupted: %v", err)
	}
	for _, content := range []string{"", "short", "!"} {
		if err := os.WriteFile(p.pki(keyringFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readKeyring(p.pki(keyringFile)); err == nil || !strings.Contains(err.Error(), "is damaged") {
			t.Errorf("%q: %v", content, err)
		}
	}
}
