package native

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/nacl/secretbox"
)

// stored is a Secret as an API server writes it and etcd stores it.
func stored(t *testing.T, key [32]byte, content string) []byte {
	t.Helper()
	var nonce [24]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		t.Fatal(err)
	}
	value := secretbox.Seal(append([]byte(secretMark+firstKey+":"), nonce[:]...), []byte(content), &nonce, &key)
	b := append([]byte("\x0a\x14/registry/secrets/x/y\x10\x02\x18\x02\x20\x01"), 5<<3|2)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(append(b, value...), 0x30, 0)
}

func TestSnapshotOfAnotherEnvironment(t *testing.T) {
	ours, theirs := [32]byte{1}, [32]byte{2}
	ring := keyring{{firstKey, base64.StdEncoding.EncodeToString(ours[:])}}
	long := strings.Repeat("s", 20000)
	for name, c := range map[string]struct {
		data        []byte
		found, ours bool
	}{
		"none":         {[]byte("pages"), false, false},
		"ours":         {stored(t, ours, "a"), true, true},
		"a long one":   {stored(t, ours, long), true, true},
		"theirs":       {stored(t, theirs, long), true, false},
		"one is ours":  {slices.Concat(stored(t, theirs, "a"), stored(t, ours, "b")), true, true},
		"only a name":  {[]byte("x" + secretMark + "y"), false, false},
		"cut off":      {stored(t, ours, long)[:1000], false, false},
		"at the start": {[]byte(secretMark), false, false},
	} {
		if found, readable := readableSecrets(c.data, ring); found != c.found || readable != c.ours {
			t.Errorf("%s: found %t, ours %t", name, found, readable)
		}
	}
}

func TestForeignSnapshotIsRefused(t *testing.T) {
	p := paths(t.TempDir())
	if err := os.MkdirAll(p.join("pki"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := readKeyring(p.pki(keyringFile)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "s.db")
	if err := os.WriteFile(file, stored(t, [32]byte{2}, "a"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.ownSnapshot(file); err == nil || !strings.Contains(err.Error(), "of another environment") {
		t.Errorf("%v", err)
	}
}

// What writes a member's data is of the version that reads it.
func TestRestoreIsOfTheEtcdThatNodesRun(t *testing.T) {
	version := func(folder, module string) string {
		b, err := os.ReadFile(filepath.Join("../../../infra/native", folder, "go.mod"))
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(string(b), "\tgo.etcd.io/etcd/"+module+" ")
		v, _, _ := strings.Cut(after, "\n")
		return strings.TrimSuffix(v, " // indirect")
	}
	nodes := version("kubernetes", "server/v3")
	if got := version("etcd-restore", "etcdutl/v3"); got != nodes || nodes == "" {
		t.Errorf("etcd-restore is of %s, nodes run %s", got, nodes)
	}
}

// Wherever a restore is interrupted, the next start has all members from before, or all restored.
func TestInterruptedRestore(t *testing.T) {
	c := testCluster(t)
	write := func(p paths, n node, folder, content string) {
		t.Helper()
		at := p.join("nodes", n.Name, folder, "member")
		if err := os.MkdirAll(at, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(at, "db"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	data := func(p paths, folder string) (all []string) {
		for _, n := range c.servers() {
			b, _ := os.ReadFile(p.join("nodes", n.Name, folder, "member", "db"))
			all = append(all, string(b))
		}
		return all
	}
	for done := range 4 { // members that were exchanged before; 3: all, but not yet noted
		p := paths(t.TempDir())
		for _, n := range c.servers() {
			write(p, n, "var/lib/etcd", "old")
			write(p, n, etcdRestored, "new")
		}
		if err := p.exchange(c); err != nil || data(p, "var/lib/etcd")[0] != "old" {
			t.Errorf("before all is there: %v, %q", err, data(p, "var/lib/etcd"))
		}
		if _, err := writeFile(p.restoring(), nil); err != nil {
			t.Fatal(err)
		}
		for _, n := range c.servers()[:done] {
			if err := p.exchangeMember(n); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.exchange(c); err != nil || exists(p.restoring()) {
			t.Errorf("after %d: %v", done, err)
		}
		if got := data(p, "var/lib/etcd"); !slices.Equal(got, []string{"new", "new", "new"}) {
			t.Errorf("after %d: members have %q", done, got)
		}
		if got := data(p, etcdBefore); !slices.Equal(got, []string{"old", "old", "old"}) || len(p.keptEtcd(c)) != 3 {
			t.Errorf("after %d: kept %q", done, got)
		}
		// Once more, since the first did not become ready: what was at the beginning stays.
		for _, n := range c.servers() {
			write(p, n, etcdRestored, "newer")
		}
		if _, err := writeFile(p.restoring(), nil); err != nil {
			t.Fatal(err)
		}
		if err := p.exchange(c); err != nil || data(p, "var/lib/etcd")[2] != "newer" || data(p, etcdBefore)[2] != "old" {
			t.Errorf("a second one: %v, %q, kept %q", err, data(p, "var/lib/etcd"), data(p, etcdBefore))
		}
		if err := p.forgetEtcd(c); err != nil || len(p.keptEtcd(c)) != 0 {
			t.Errorf("forget: %v", err)
		}
	}
}

// A node may have laid links below its var.
func TestRestoreFollowsNoLinkOfANode(t *testing.T) {
	c, p := testCluster(t), paths(t.TempDir())
	outside := t.TempDir()
	n := c.servers()[0]
	for _, dir := range []string{p.nodeVar(n.Name), p.join("nodes", n.Name, etcdRestored)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(p.nodeVar(n.Name), "lib")); err != nil {
		t.Fatal(err)
	}
	if err := p.exchangeMember(n); err == nil {
		t.Error("no error")
	}
	if entries, _ := os.ReadDir(outside); len(entries) > 0 {
		t.Errorf("it made %v outside", entries)
	}
}

// What cannot be restored stops nothing: a supervisor that were asked to would be this test.
func TestRestoreLooksBeforeItStops(t *testing.T) {
	p := paths(t.TempDir())
	lock, _, err := takeLock(p)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := os.MkdirAll(p.join("pki"), 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "s.db")
	d := &Driver{paths: p, cluster: testCluster(t)}
	page := make([]byte, 4096)
	sum := sha256.Sum256(page)
	for _, c := range []struct {
		content []byte
		want    string
	}{{page, "no snapshot of etcd"}, {append(page, sum[:]...), "'orrery up' brings"}} {
		if err := os.WriteFile(file, c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := d.RestoreEtcd(t.Context(), file); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}
