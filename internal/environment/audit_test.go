package environment

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/audit"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
)

// planted is a Secret value that must be nowhere else.
const planted = "b64-c0ffee-c0ffee-c0ffee"

func manifest(t *testing.T, apiVersion, kind, namespace, name string, more map[string]any) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{"name": name, "namespace": namespace}}}
	for k, v := range more {
		o.Object[k] = v
	}
	return o
}

// certificate that ends then, PEM.
func certificate(t *testing.T, name string, ends time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: ends.Add(-time.Hour), NotAfter: ends}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// findings of one check, as "object: detail".
func findings(r audit.Report, check string) string {
	var all []string
	for _, f := range r.Findings {
		if f.Check == check {
			all = append(all, f.Object+": "+f.Detail)
		}
	}
	return strings.Join(all, "\n")
}

// TestAudit: what is planted in the cluster and in the state folder is found, and goes away with it.
func TestAudit(t *testing.T) {
	s := newSmall(t)
	p := s.open(Selection{})
	if _, err := p.Audit(t.Context()); err == nil || !strings.Contains(err.Error(), "orrery up --env small") {
		t.Errorf("before up: %v", err)
	}
	p.Close()
	s.mustUp(Selection{})
	p = s.open(Selection{})
	defer p.Close()
	run := func() audit.Report {
		t.Helper()
		r, err := p.Audit(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	checks := []string{"state-plaintext", "state-key-mode", "certificate-expiry"}
	clean := run()
	for _, c := range checks {
		if got := findings(clean, c); got != "" || !slices.Contains(clean.Passed, c) {
			t.Errorf("nothing is planted, and %s says %q", c, got)
		}
	}
	s.cluster.API.Put(manifest(t, "v1", "Secret", "shop", "till", map[string]any{"data": map[string]any{
		"password": base64.StdEncoding.EncodeToString([]byte(planted)),
		"tls.crt":  base64.StdEncoding.EncodeToString(certificate(t, "till", time.Now().Add(time.Hour))),
	}}))
	s.cluster.API.Put(manifest(t, "v1", "ConfigMap", "shop", "till", map[string]any{"data": map[string]any{"config": "password = " + planted}}))
	log, key := filepath.Join(p.StateDir, "till.log"), filepath.Join(p.StateDir, "till.key")
	// Far behind what is read of other files, and across the seam of what is read at once.
	early := strings.Repeat("x", 2*auditFileLimit-len(planted)/2)
	for file, text := range map[string]string{log: early + planted + "\n", key: "-----BEGIN PRIVATE KEY-----\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	r := run()
	for check, want := range map[string]string{
		"state-plaintext":    "file/till.log: it holds a value of Secret shop/till",
		"state-key-mode":     "file/till.key: it holds a key, and has mode 0644",
		"certificate-expiry": "Secret/shop/till/tls.crt: CN=till ends ",
	} {
		if got := findings(r, check); !strings.Contains(got, want) {
			t.Errorf("%s says %q, want %q", check, got, want)
		}
	}
	if all := r.Findings; !slices.ContainsFunc(all, func(f audit.Finding) bool {
		return f.Object == "ConfigMap/shop/till" && strings.Contains(f.Detail, "shop/till") && !strings.Contains(f.Detail, planted)
	}) {
		t.Error("nobody finds the password in the ConfigMap")
	}
	// The nodes of the fake are nowhere: what cannot be seen is not called clean.
	for _, part := range []string{audit.PartEtcd, audit.PartFiles, audit.PartKubelet} {
		for _, c := range audit.All() {
			if c.Of == part && slices.Contains(r.Passed, c.ID) {
				t.Errorf("%s passed, and nothing of the %s could be seen", c.ID, part)
			}
		}
	}
}

// TestGatheringOfNodes: what is read of a process and of the files of its node.
func TestGatheringOfNodes(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	const encryption = "etc/kubernetes/encryption.yaml"
	write(encryption, "kind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n  - aescbc: {keys: [{name: a, secret: "+planted+"}]}\n  - identity: {}\n", 0o600)
	write("etc/kubernetes/pki/ca.crt", string(certificate(t, "ca", time.Now())), 0o644)
	write("etc/kubernetes/pki/ca.key", "-----BEGIN PRIVATE KEY-----\n", 0o640)
	if err := os.MkdirAll(filepath.Join(root, "var/lib/etcd"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "x.key"), []byte("-----BEGIN PRIVATE KEY-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(root, "etc/cni")); err != nil { // a node lays a link
		t.Fatal(err)
	}
	g := gathering{Evidence: audit.Evidence{Missing: map[string]string{}}, secrets: map[string][]string{}}
	g.nodeFiles("server1", root)
	got := map[string]audit.File{}
	for _, f := range g.Files {
		got[f.Path] = f
	}
	for path, want := range map[string]audit.File{
		"server1/" + encryption:             {Mode: 0o600, Key: true},
		"server1/etc/kubernetes/pki/ca.crt": {Mode: 0o644},
		"server1/etc/kubernetes/pki/ca.key": {Mode: 0o640, Key: true},
		"server1/var/lib/etcd":              {Mode: 0o700, Key: true},
	} {
		if f, ok := got[path]; !ok || f.Mode != want.Mode || f.Key != want.Key {
			t.Errorf("%s: %+v (found %t)", path, f, ok)
		}
	}
	if len(got) != 4 || len(g.Certificates) != 1 {
		t.Errorf("files %v, certificates %v", got, g.Certificates)
	}
	if !strings.Contains(g.Partly[audit.PartFiles], "etc/cni of node server1 is a link") {
		t.Errorf("what is behind a link counts as looked at: %v", g.Partly)
	}
	// Nor is a link's own mode, which is always 0777, that of etcd's folder.
	linked := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(linked, "var/lib"), 0o755), os.Symlink(outside, filepath.Join(linked, "var/lib/etcd"))); err != nil {
		t.Fatal(err)
	}
	behind := gathering{}
	behind.nodeFiles("server1", linked)
	if len(behind.Files) > 0 || !strings.Contains(behind.Partly[audit.PartFiles], "var/lib/etcd of node server1 is a link") {
		t.Errorf("files %v, %v", behind.Files, behind.Partly)
	}
	if c := configOf("encryption-provider-config", root, "/"+encryption); len(c) != 1 || c["firstProvider"] != "aescbc" {
		t.Errorf("of the keys of encryption it takes %v", c)
	}

	// One that says that it runs, and one that has ended and is not waited for.
	cmd, ended := exec.CommandContext(t.Context(), "sh", "-c", "echo; read line", "x"), exec.CommandContext(t.Context(), "true")
	out, err := cmd.StdoutPipe()
	if err == nil {
		_, err = cmd.StdinPipe() // so that it goes on
	}
	if err = errors.Join(err, cmd.Start(), ended.Start()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(cmd.Process.Kill(), cmd.Wait(), ended.Wait()) }()
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := check.Until(t.Context(), check.Pause{First: 10 * time.Millisecond}, func() error {
		if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", ended.Process.Pid)); err != nil || len(line) > 0 {
			return fmt.Errorf("it runs: %q %v", line, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	g = gathering{Evidence: audit.Evidence{Missing: map[string]string{}}}
	g.processes(driver.Observation{Nodes: []driver.Node{
		{Name: "server1", Services: []driver.Service{{Name: audit.PartEtcd, PID: cmd.Process.Pid}, {Name: audit.PartScheduler, PID: ended.Process.Pid}}},
		{Name: "agent1", Services: []driver.Service{{Name: "kubelet"}}},
	}})
	if len(g.Processes) != 1 || len(g.Processes[0].Args) == 0 {
		t.Errorf("processes %+v", g.Processes)
	}
	if why := g.Missing[audit.PartScheduler]; !strings.Contains(why, "kube-scheduler of server1 is only starting, or has ended") {
		t.Errorf("of one that has ended: %q", why)
	}
	if g.Missing[audit.PartEtcd] != "" || !strings.Contains(g.Missing[audit.PartAPIServer], "node agent1") {
		t.Errorf("missing %v", g.Missing)
	}
}

// What was seen of some nodes does not speak for those of which nothing was seen, nor for what a
// node has too much of.
func TestNodesThatAreNotSeen(t *testing.T) {
	self := driver.Service{Name: audit.PartEtcd, PID: os.Getpid()}
	g := gathering{Evidence: audit.Evidence{Missing: map[string]string{}}}
	g.processes(driver.Observation{Nodes: []driver.Node{
		{Name: "server1", Role: driver.RoleServer, Services: []driver.Service{self}}, {Name: "server2", Role: driver.RoleServer}, {Name: "agent1", Role: driver.RoleAgent},
	}})
	if why := g.Partly[audit.PartEtcd]; !strings.Contains(why, "server2") || strings.Contains(why, "agent1") {
		t.Errorf("of etcd: %q", why)
	}
	if why := g.Partly[audit.PartFiles]; !strings.Contains(why, "server2") || !strings.Contains(why, "agent1") {
		t.Errorf("of files: %q", why)
	}

	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "empty.log"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if in := g.secretsOf(root, "empty.log", 0); len(in) > 0 { // and it ends
		t.Errorf("an empty log has %v", in)
	}
	if err := os.MkdirAll(filepath.Join(root, "etc/cni"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range auditFiles + 1 {
		if err := os.WriteFile(filepath.Join(root, "etc/cni", fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g = gathering{Evidence: audit.Evidence{Missing: map[string]string{}}}
	g.nodeFiles("server1", root)
	if len(g.Files) > auditFiles || !strings.Contains(g.Partly[audit.PartFiles], "more than 500 files in etc/cni") {
		t.Errorf("%d files; %v", len(g.Files), g.Partly)
	}
}

// TestStaticPodsAreLookedAt: the flags of a control plane that somebody else runs in pods.
func TestStaticPodsAreLookedAt(t *testing.T) {
	pod := manifest(t, "v1", "Pod", "kube-system", "kube-apiserver-a", map[string]any{"spec": map[string]any{"nodeName": "a", "containers": []any{
		map[string]any{"command": []any{"kube-apiserver"}, "args": []any{"--profiling=false"}},
	}}})
	pod.SetLabels(map[string]string{"component": audit.PartAPIServer})
	g := gathering{Evidence: audit.Evidence{Missing: map[string]string{}, Objects: []audit.Object{pod.Object}}}
	g.staticPods()
	if len(g.Processes) != 1 || g.Processes[0].Node != "a" || !slices.Equal(g.Processes[0].Args, []string{"kube-apiserver", "--profiling=false"}) {
		t.Errorf("processes %+v", g.Processes)
	}
	if g.Missing[audit.PartAPIServer] != "" || g.Missing[audit.PartScheduler] == "" {
		t.Errorf("missing %v", g.Missing)
	}
}
