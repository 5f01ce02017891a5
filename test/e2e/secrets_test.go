package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// kubeconfig is the part of clientcmd's file that the tests look at.
type kubeconfig struct {
	APIVersion     string         `json:"apiVersion"`
	Kind           string         `json:"kind"`
	CurrentContext string         `json:"current-context"`
	Clusters       []namedCluster `json:"clusters"`
	Contexts       []namedContext `json:"contexts"`
	Users          []namedUser    `json:"users"`
}

type namedCluster struct {
	Name    string         `json:"name"`
	Cluster map[string]any `json:"cluster"`
}

type namedContext struct {
	Name    string         `json:"name"`
	Context map[string]any `json:"context"`
}

type namedUser struct {
	Name string         `json:"name"`
	User map[string]any `json:"user"`
}

func (e *environment) kubeconfig(t *testing.T) kubeconfig {
	t.Helper()
	var c kubeconfig
	if err := yaml.Unmarshal([]byte(e.run(t, "kubeconfig")), &c); err != nil {
		t.Fatal(err)
	}
	if len(c.Users) != 1 || len(c.Contexts) != 1 {
		t.Fatalf("the kubeconfig has %d users and %d contexts", len(c.Users), len(c.Contexts))
	}
	return c
}

// userKubeconfig is the KUBECONFIG of every invocation.
func userKubeconfig() string { return filepath.Join(filepath.Dir(stateDir), "kubeconfig") }

const mine = `apiVersion: v1
kind: Config
current-context: mine
clusters: [{name: mine, cluster: {server: "https://mine.example"}}]
contexts: [{name: mine, context: {cluster: mine, user: mine}}]
users: [{name: mine, user: {token: not-a-secret}}]
`

func mergeKubeconfig(t *testing.T, e *environment) {
	if err := os.WriteFile(userKubeconfig(), []byte(mine), 0o600); err != nil {
		t.Fatal(err)
	}
	e.run(t, "kubeconfig", "--merge")
	c := readKubeconfig(t, userKubeconfig())
	want := "orrery-" + e.name
	if c.CurrentContext != want || len(c.Contexts) != 2 || len(c.Users) != 2 || len(c.Clusters) != 2 {
		t.Errorf("after --merge: current %s, %d contexts, %d users, %d clusters", c.CurrentContext, len(c.Contexts), len(c.Users), len(c.Clusters))
	}
	if st, err := os.Stat(userKubeconfig()); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode of a file with credentials: %v, %v", st.Mode(), err)
	}
	if out := e.run(t, "kubectl", "--kubeconfig", userKubeconfig(), "--context", want, "get", "nodes", "-o", "name"); !strings.Contains(out, "node/server1") {
		t.Errorf("through the merged context: %s", out)
	}
	through := []string{"kubectl", "--kubeconfig", userKubeconfig(), "--context", want, "get", "nodes"}
	e.run(t, "kubectl", "delete", "clusterrolebinding", "orrery:people")
	if r := e.try(t, through...); r.code == 0 {
		t.Errorf("a key that was taken away still opens: %v", r)
	}
	e.kubeconfig(t) // another key, and a binding for it
	if r := e.try(t, through...); r.code == 0 {
		t.Errorf("it opens again with the next key: %v", r)
	}
	e.run(t, "kubeconfig", "--merge", "--ttl", "1h")
	e.run(t, through...)
}

// kubeconfigIsOursNoMore looks at the user's kubeconfig after down.
func kubeconfigIsOursNoMore(t *testing.T, e *environment) {
	if _, err := os.Stat(userKubeconfig()); errors.Is(err, fs.ErrNotExist) {
		return // nothing was merged in this run
	}
	b, err := os.ReadFile(userKubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte(e.name)) {
		t.Errorf("down left its context in the user's kubeconfig:\n%s", b)
	}
	c := readKubeconfig(t, userKubeconfig())
	if len(c.Contexts) != 1 || c.Contexts[0].Name != "mine" || len(c.Users) != 1 || len(c.Clusters) != 1 {
		t.Errorf("down damaged the user's own context: %+v", c)
	}
}

func readKubeconfig(t *testing.T, file string) kubeconfig {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var c kubeconfig
	if err := yaml.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// supportKeepsSecrets searches the support archive for every credential of the platform.
func supportKeepsSecrets(t *testing.T, e *environment) {
	archive := filepath.Join(t.TempDir(), "support.tar.gz")
	e.run(t, "support", "--to", archive)
	files := unpack(t, archive)
	for _, want := range []string{"status.json", "observation.json", "cluster/pods.json", "server1/log/etcd.log", "agent1/log/kubelet.log"} {
		found := false
		for name, content := range files {
			found = found || strings.HasSuffix(name, want) && len(content) > 0
		}
		if !found {
			t.Errorf("%s is not in the archive", want)
		}
	}
	secrets := e.credentials(t)
	if len(secrets) < 5 {
		t.Errorf("only %d credentials were found to look for", len(secrets))
	}
	for name, content := range files {
		if bytes.Contains(content, []byte("PRIVATE KEY")) {
			t.Errorf("%s holds a private key", name)
		}
		if bytes.Contains(content, []byte(`"kind": "Secret"`)) || bytes.Contains(content, []byte(`"kind":"Secret"`)) {
			t.Errorf("%s holds a Secret", name)
		}
		for what, value := range secrets {
			if bytes.Contains(content, []byte(value)) {
				t.Errorf("%s holds %s", name, what)
			}
		}
	}
}

// credentials are the admin's own and the content of every Secret, both as it is and in
// base64. Public keys are not among them.
func (e *environment) credentials(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	add := func(what, encoded string) {
		plain, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			plain = nil
		}
		for form, v := range map[string]string{"": encoded, ", decoded": strings.TrimSpace(string(plain))} {
			if len(v) >= 16 { // shorter ones would be found by chance
				all[what+form] = v
			}
		}
	}
	for key, value := range readKubeconfig(t, e.state("kubeconfig")).Users[0].User {
		if s, ok := value.(string); ok {
			add("the admin's "+key, s)
		}
	}
	type secrets struct {
		Items []struct {
			Metadata struct{ Namespace, Name string }
			Data     map[string]string
		}
	}
	for _, s := range decode[secrets](t, e.run(t, "kubectl", "get", "secrets", "-A", "-o", "json")).Items {
		for key, value := range s.Data {
			if !strings.HasSuffix(key, ".pub") && key != "ca.crt" {
				add("secret "+s.Metadata.Namespace+"/"+s.Metadata.Name+" "+key, value)
			}
		}
	}
	return all
}

func unpack(t *testing.T, archive string) map[string][]byte {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Mode().Perm()&0o077 != 0 {
		t.Errorf("others can read the archive: %v, %v", st.Mode(), err)
	}
	zr, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for tr := tar.NewReader(zr); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

// tarOf is a layer that holds one executable.
func tarOf(name, path string) (io.ReadCloser, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	h := &tar.Header{Name: name, Mode: 0o755, Size: int64(len(content)), ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg}
	if err := tw.WriteHeader(h); err != nil {
		return nil, err
	}
	if _, err := tw.Write(content); err != nil {
		return nil, err
	}
	return io.NopCloser(&b), tw.Close()
}
