package environment

import (
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
)

const ownKubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:16443"}}]
users: [{name: u, user: {token: secret}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`

func TestMergeAndRemoveContext(t *testing.T) {
	dir := t.TempDir()
	own := filepath.Join(dir, "own")
	if err := os.WriteFile(own, []byte(ownKubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	theirs := `apiVersion: v1
kind: Config
clusters: [{name: work, cluster: {server: "https://work"}}]
users: [{name: work, user: {token: t}}]
contexts: [{name: work, context: {cluster: work, user: work}}]
current-context: work
`
	t.Run("a file of theirs keeps what it holds", func(t *testing.T) {
		target := filepath.Join(dir, "config")
		if err := os.WriteFile(target, []byte(theirs), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 { // merging again changes nothing
			if err := mergeContext(own, target, "demo"); err != nil {
				t.Fatal(err)
			}
		}
		cfg, err := clientcmd.LoadFromFile(target)
		if err != nil {
			t.Fatal(err)
		}
		if cfg.CurrentContext != "orrery-demo" || len(cfg.Contexts) != 2 || cfg.Clusters["orrery-demo"].Server != "https://127.0.0.1:16443" || cfg.AuthInfos["orrery-demo"].Token != "secret" {
			t.Errorf("after merge: current %q, contexts %v", cfg.CurrentContext, cfg.Contexts)
		}
		if err := removeContext(target, "demo"); err != nil {
			t.Fatal(err)
		}
		cfg, err = clientcmd.LoadFromFile(target)
		if err != nil {
			t.Fatal(err)
		}
		if len(cfg.Contexts) != 1 || cfg.Clusters["work"] == nil || cfg.AuthInfos["orrery-demo"] != nil || cfg.CurrentContext != "" {
			t.Errorf("after removal: %+v", cfg)
		}
	})
	t.Run("a file that was made for it goes away", func(t *testing.T) {
		target := filepath.Join(dir, "new", "config")
		if err := mergeContext(own, target, "demo"); err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(target); err != nil || st.Mode().Perm() != 0o600 {
			t.Fatalf("want mode 0600: %v %v", st, err)
		}
		if err := removeContext(target, "demo"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(target); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", target, err)
		}
	})
	t.Run("a missing file is fine to remove from, a broken one is not overwritten", func(t *testing.T) {
		if err := removeContext(filepath.Join(dir, "none"), "demo"); err != nil {
			t.Error(err)
		}
		broken := filepath.Join(dir, "broken")
		if err := os.WriteFile(broken, []byte("{{{"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := mergeContext(own, broken, "demo"); err == nil {
			t.Error("want an error")
		}
		if b, _ := os.ReadFile(broken); string(b) != "{{{" {
			t.Errorf("broken file was changed to %q", b)
		}
	})
}
