package native

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

// bindingsAPI has ClusterRoleBindings alone, and serves who the environment's authority knows.
type bindingsAPI struct {
	t    *testing.T
	have map[string]json.RawMessage
}

func (b *bindingsAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if len(r.TLS.VerifiedChains) == 0 || !slices.Contains(r.TLS.PeerCertificates[0].Subject.Organization, "system:masters") {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	name := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, bindings), "/")
	if r.Method == http.MethodGet {
		if b.have[name] == nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write(b.have[name])
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		b.t.Error(err)
	}
	b.have[peopleBinding] = body
	w.WriteHeader(http.StatusCreated)
}

// A person's key ends when it was said, is of no group whose rights cannot be taken away, and is
// kept nowhere. Whoever removes the binding ends the keys that there are for good.
func TestKeysOfPeople(t *testing.T) {
	p, c := paths(t.TempDir()), testCluster(t)
	i := &issuer{now: time.Now}
	if err := credentials(i, p, c, networks[c.Plugin]); err != nil {
		t.Fatal(err)
	}
	serving := filepath.Join(t.TempDir(), "serving")
	cert, key, raw, err := loadPair(p.pki("ca"))
	if err != nil {
		t.Fatal(err)
	}
	if err := i.leaf(&authority{cert, key, raw}, serving, leaf{cn: "kube-apiserver", names: []string{"127.0.0.1"}, server: true}); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(serving+".crt", serving+".key")
	if err != nil {
		t.Fatal(err)
	}
	known := x509.NewCertPool()
	known.AddCert(cert)
	b := &bindingsAPI{t, map[string]json.RawMessage{}}
	server := httptest.NewUnstartedServer(b)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: known, ClientAuth: tls.VerifyClientCertIfGiven, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	defer server.Close()
	c.API = server.Listener.Addr().(*net.TCPAddr).Port
	d := &Driver{paths: p, cluster: c, now: time.Now}
	before := files(t, string(p))
	issue := func(life time.Duration) *x509.Certificate {
		t.Helper()
		kubeconfig, ends, err := d.Issue(t.Context(), life)
		if err != nil {
			t.Fatal(err)
		}
		config, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(config.CertData, config.KeyData)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: known, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			t.Error(err)
		}
		if left := time.Until(pair.Leaf.NotAfter); left > life || left < life-time.Minute || !ends.Truncate(time.Second).Equal(pair.Leaf.NotAfter) {
			t.Errorf("a key for %s ends at %s, it was said %s", life, pair.Leaf.NotAfter, ends)
		}
		return pair.Leaf
	}
	group := func(c *x509.Certificate) string { return strings.Join(c.Subject.Organization, " ") }
	first, second := issue(time.Hour), issue(8*time.Hour)
	if group(first) != group(second) || !strings.HasPrefix(group(first), peopleGroup) {
		t.Errorf("groups %q and %q", group(first), group(second))
	}
	if !strings.Contains(string(b.have[peopleBinding]), `"cluster-admin"`) || !strings.Contains(string(b.have[peopleBinding]), group(first)) {
		t.Errorf("the binding: %s", b.have[peopleBinding])
	}
	delete(b.have, peopleBinding)
	if third := issue(time.Hour); group(third) == group(first) {
		t.Error("a new key gives the ended ones their rights back")
	}
	b.have[peopleBinding] = []byte(`{"subjects":[]}`)
	if _, _, err := d.Issue(t.Context(), time.Hour); err == nil || !strings.Contains(err.Error(), peopleBinding) {
		t.Errorf("with a binding of nobody: %v", err)
	}
	if after := files(t, string(p)); !slices.Equal(before, after) {
		t.Errorf("files before %q and after %q", before, after)
	}
	server.Close()
	if _, _, err := d.Issue(t.Context(), time.Hour); err == nil {
		t.Error("a key was given out whose rights nobody knows")
	}
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		all = append(all, path)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}
