package kubeconfig

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
)

const ownFile = `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:16443"}}]
users: [{name: u, user: {token: secret}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`

const theirFile = `# written by hand
apiVersion: v1
kind: Config
clusters:
- name: work
  cluster: {server: "https://work", tomorrow: {field: 1}}
users:
- name: work
  user: {token: t}
contexts:
- name: work
  context: {cluster: work, user: work}
current-context: work
invented: [1, 2] # by a plugin
`

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestMergeAndRemove(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "config")
	write(t, target, theirFile, 0o640)
	if os.Geteuid() == 0 {
		if err := os.Chown(target, 1234, 1235); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("config", link); err != nil {
		t.Fatal(err)
	}
	intact := func(when string) {
		t.Helper()
		if to, err := os.Readlink(link); err != nil || to != "config" {
			t.Errorf("%s the link leads to %q, %v", when, to, err)
		}
		info, err := os.Stat(target)
		if err != nil {
			t.Fatal(err)
		}
		if st := info.Sys().(*syscall.Stat_t); info.Mode().Perm() != 0o640 || os.Geteuid() == 0 && (st.Uid != 1234 || st.Gid != 1235) {
			t.Errorf("%s mode %v, owner %d:%d", when, info.Mode(), st.Uid, st.Gid)
		}
		data, err := os.ReadFile(target)
		for _, want := range []string{"# written by hand", "invented: [1, 2] # by a plugin", "tomorrow: {field: 1}"} {
			if err != nil || !strings.Contains(string(data), want) {
				t.Errorf("%s %q is lost: %v\n%s", when, want, err, data)
			}
		}
	}
	if now, err := Current(link); err != nil || now != "work" {
		t.Errorf("current: %q, %v", now, err)
	}
	for range 2 { // merging again changes nothing
		if err := Merge([]byte(ownFile), link, "orrery-demo"); err != nil {
			t.Fatal(err)
		}
	}
	intact("after the merge")
	cfg, err := clientcmd.LoadFromFile(link)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.CurrentContext != "orrery-demo" || len(cfg.Contexts) != 2 || cfg.Clusters["orrery-demo"].Server != "https://127.0.0.1:16443" || cfg.AuthInfos["orrery-demo"].Token != "secret" {
		t.Errorf("after the merge: current %q, contexts %v", cfg.CurrentContext, cfg.Contexts)
	}
	if err := Remove(link, "orrery-demo", "work"); err != nil {
		t.Fatal(err)
	}
	intact("after the removal")
	cfg, err = clientcmd.LoadFromFile(link)
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Contexts) != 1 || cfg.Clusters["work"] == nil || cfg.AuthInfos["orrery-demo"] != nil || cfg.CurrentContext != "work" {
		t.Errorf("after the removal: %+v", cfg)
	}
}

// A context that a person chose meanwhile stays the current one, and one that is gone is not.
func TestPrevious(t *testing.T) {
	for name, tt := range map[string]struct{ current, previous, want string }{
		"ours":           {"orrery-demo", "work", "work"},
		"another":        {"work", "gone", "work"},
		"gone":           {"orrery-demo", "gone", ""},
		"there was none": {"orrery-demo", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			target := filepath.Join(t.TempDir(), "config")
			write(t, target, theirFile, 0o600)
			if err := Merge([]byte(ownFile), target, "orrery-demo"); err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(target)
			if err != nil {
				t.Fatal(err)
			}
			write(t, target, strings.Replace(string(data), "current-context: orrery-demo", "current-context: "+tt.current, 1), 0o600)
			if err := Remove(target, "orrery-demo", tt.previous); err != nil {
				t.Fatal(err)
			}
			if now, err := Current(target); err != nil || now != tt.want {
				t.Errorf("current %q, %v; want %q", now, err, tt.want)
			}
		})
	}
}

func TestFileOfItsOwn(t *testing.T) {
	target := filepath.Join(t.TempDir(), "new", "folder", "config")
	if err := Merge([]byte(ownFile), target, "orrery-demo"); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(target); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("want mode 0600: %v %v", st, err)
	}
	if err := Remove(target, "orrery-demo", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(target); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", target, err)
	}
	if err := Remove(target, "orrery-demo", ""); err != nil {
		t.Errorf("a missing file: %v", err)
	}
}

func TestBroken(t *testing.T) {
	for _, content := range []string{"{{{", "[]", "just words", "clusters: {a: b}\n"} {
		target := filepath.Join(t.TempDir(), "config")
		write(t, target, content, 0o600)
		if err := Merge([]byte(ownFile), target, "orrery-demo"); err == nil || !strings.Contains(err.Error(), target) {
			t.Errorf("%q: want an error that names the file, got %v", content, err)
		}
		if b, _ := os.ReadFile(target); string(b) != content {
			t.Errorf("a broken file was changed to %q", b)
		}
	}
}

// People point KUBECONFIG at /dev/null to have none. It must stay what it is, and nothing may be read for ever.
func TestNoFile(t *testing.T) {
	dir := t.TempDir()
	huge := filepath.Join(dir, "huge")
	write(t, huge, "", 0o600)
	if err := os.Truncate(huge, sizeLimit+1); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{os.DevNull, "/dev/zero", dir, huge} {
		before, err := os.Stat(target)
		if err != nil {
			t.Fatal(err)
		}
		for what, err := range map[string]error{
			"merge": Merge([]byte(ownFile), target, "orrery-demo"), "remove": Remove(target, "orrery-demo", ""),
		} {
			if err == nil || !strings.Contains(err.Error(), "kubeconfig "+target+": not a file") {
				t.Errorf("%s %s: %v", what, target, err)
			}
		}
		if after, err := os.Stat(target); err != nil || !os.SameFile(before, after) {
			t.Errorf("%s was replaced: %v", target, err)
		}
	}
}

func TestDefault(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("HOME", "/home/u")
	for list, want := range map[string]string{
		"": "/home/u/.kube/config", "::": "/home/u/.kube/config", ":/etc/kc:/other": "/etc/kc", "kc": filepath.Join(dir, "kc"),
	} {
		t.Setenv("KUBECONFIG", list)
		if got, err := Default(); err != nil || got != want {
			t.Errorf("KUBECONFIG=%q: %q, %v; want %q", list, got, err, want)
		}
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(theirFile)
	f.Add("clusters: [{name: &a b}, *a]")
	f.Fuzz(func(t *testing.T, content string) {
		target := filepath.Join(t.TempDir(), "config")
		write(t, target, content, 0o600)
		if err := Merge([]byte(ownFile), target, "orrery-demo"); err != nil {
			return
		}
		if now, err := Current(target); err != nil || now != "orrery-demo" {
			t.Fatalf("merged, and then the current context is %q, %v", now, err)
		}
	})
}
