package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
)

// served is a server, and a clone of a person with the git of this machine.
type served struct {
	*testing.T
	host        *host
	read, write string // URLs
	clone       string
}

func newServed(t *testing.T) *served {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not on PATH")
	}
	t.Setenv("GIT_CONFIG_GLOBAL", os.DevNull)
	s := &served{T: t, host: newHost(t.TempDir()), clone: t.TempDir()}
	if err := s.host.begin(); err != nil {
		t.Fatal(err)
	}
	read, write := httptest.NewServer(s.host.handler(false)), httptest.NewServer(s.host.handler(true))
	t.Cleanup(read.Close)
	t.Cleanup(write.Close)
	s.read, s.write = read.URL+"/"+name, write.URL+"/"+name
	s.must("init", "-q", "-b", branch)
	return s
}

// try runs git as a person does.
func (s *served) try(args ...string) (string, error) {
	cmd := exec.CommandContext(s.Context(), "git", append([]string{"-c", "user.name=Ada", "-c", "user.email=ada@example.org"}, args...)...)
	cmd.Dir = s.clone
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (s *served) must(args ...string) string {
	s.Helper()
	out, err := s.try(args...)
	if err != nil {
		s.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return out
}

func (s *served) commit(file, content string) (hash string) {
	s.Helper()
	path := filepath.Join(s.clone, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		s.Fatal(err)
	}
	s.must("add", "-A")
	s.must("commit", "-q", "-m", file)
	return s.must("rev-parse", "HEAD")
}

// argo is a working tree as Argo CD makes one.
func (s *served) argo() (dir string) {
	s.Helper()
	dir = s.TempDir()
	repo, err := git.PlainInit(dir, false)
	if err == nil {
		_, err = repo.CreateRemote(&config.RemoteConfig{Name: "origin", URLs: []string{s.read}})
	}
	if err != nil {
		s.Fatal(err)
	}
	return dir
}

func (s *served) call(dir string, args ...string) (string, error) {
	var out bytes.Buffer
	err := call(s.Context(), dir, args, &out)
	return strings.TrimSpace(out.String()), err
}

// TestArgo makes the calls of Argo CD, in its order: another commit, and the one before.
func TestArgo(t *testing.T) {
	s := newServed(t)
	first := s.commit("shop/manifest.yaml", "one: 1\n")
	second := s.commit("bank/manifest.yaml", "two: 2\n")
	s.must("push", s.write, branch)
	dir := s.argo()
	if _, err := s.call(dir, "cat-file", "-t", first); err == nil {
		t.Error("there is a commit before anything was fetched")
	}
	check := func(commit string, want ...string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "stray"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct{ args, want string }{
			{"cat-file -t " + commit, "commit"}, {"checkout --force " + commit, ""}, {"clean -ffdx", ""}, {"rev-parse HEAD", commit},
		} {
			if got, err := s.call(dir, strings.Fields(c.args)...); err != nil || got != c.want {
				t.Errorf("%s: %q, %v; want %q", c.args, got, err, c.want)
			}
		}
		found, err := filepath.Glob(filepath.Join(dir, "[^.]*"))
		for i := range found {
			found[i] = filepath.Base(found[i])
		}
		if fmt.Sprint(found) != fmt.Sprint(want) {
			t.Errorf("at %s there is %v, %v; want %v", commit, found, err, want)
		}
	}
	fetch := func() {
		t.Helper()
		if _, err := s.call(dir, "fetch", "origin", "--tags", "--force", "--prune"); err != nil {
			t.Fatal(err)
		}
	}
	fetch()
	check(second, "bank", "shop")
	check(first, "shop")
	third := s.commit("shop/manifest.yaml", "one: 3\n")
	s.must("push", s.write, branch)
	// Of a long file git sends what is different.
	long := strings.Repeat("a line that stays as it was\n", 200)
	for _, end := range []string{"1", "2"} {
		third = s.commit("bank/manifest.yaml", long+end+"\n")
		s.must("push", s.write, branch)
	}
	fetch()
	check(third, "bank", "shop")
	if text, err := os.ReadFile(filepath.Join(dir, "shop/manifest.yaml")); err != nil || string(text) != "one: 3\n" {
		t.Errorf("%q, %v", text, err)
	}
	fetch() // nothing new
	if _, err := s.call(dir, "fetch", "origin", strings.Repeat("ab", 20), "--tags", "--force", "--prune"); err == nil {
		t.Error("a commit that is nowhere was fetched")
	}
}

// What Argo CD does not call is refused by name, and changes nothing.
func TestUnknown(t *testing.T) {
	s := newServed(t)
	s.commit("a", "a")
	s.must("push", s.write, branch)
	dir := s.argo()
	for _, args := range []string{
		"", "status", "fetch origin", "push origin main", "checkout main", "checkout --force main", "cat-file -p HEAD", "clean -n", "rev-parse main",
		"fetch elsewhere main", "submodule update", "lfs fetch --all", "show -s HEAD",
	} {
		if _, err := s.call(dir, strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), "only what Argo CD") {
			t.Errorf("git %s: %v", args, err)
		}
	}
}

// A link, or a file that is run, is nothing that Argo CD is to see; and what was there before stays away.
func TestCheckoutRefuses(t *testing.T) {
	s := newServed(t)
	if err := os.Symlink("/etc/passwd", filepath.Join(s.clone, "link")); err != nil {
		t.Fatal(err)
	}
	hash := s.commit("a", "a")
	s.must("push", s.write, branch)
	dir := s.argo()
	if _, err := s.call(dir, "fetch", "origin", "--tags", "--force", "--prune"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.call(dir, "checkout", "--force", hash); err == nil || !strings.Contains(err.Error(), "link is no plain file") {
		t.Errorf("%v", err)
	}
}

// Only a push that goes on from what is there is taken, of the one branch, and not where everybody reads.
func TestPush(t *testing.T) {
	s := newServed(t)
	s.commit("a", "one")
	if out, err := s.try("push", s.read, branch); err == nil || strings.Contains(out, "->") {
		t.Errorf("who reads may push: %s", out)
	}
	s.must("push", s.write, branch)
	was := s.commit("a", "two")
	s.must("push", s.write, branch)
	for _, c := range []struct{ name, args, want string }{
		{"another branch", "push " + s.write + " HEAD:other", "there is one branch"},
		{"none", "push " + s.write + " :main", "there is one branch"},
		{"what was before", "push --force " + s.write + " HEAD~:main", "non-fast-forward"},
	} {
		if out, err := s.try(strings.Fields(c.args)...); err == nil || !strings.Contains(out, c.want) {
			t.Errorf("%s: %v, %s", c.name, err, out)
		}
	}
	if out := s.must("ls-remote", s.read); !strings.Contains(out, was) || strings.Contains(out, "other") {
		t.Error(out)
	}
	// A person reads it as any other, and goes on where they were.
	other := filepath.Join(t.TempDir(), "clone")
	s.must("clone", "-q", s.read, other)
	for i := range 40 {
		s.commit("a", fmt.Sprint(i))
	}
	s.must("push", s.write, branch)
	s.must("-C", other, "pull", "-q", "--ff-only")
}

// A repository that is damaged is no empty one: that is said, and it can be made anew.
func TestDamaged(t *testing.T) {
	s := newServed(t)
	s.commit("a", "one")
	s.must("push", s.write, branch)
	kept := s.argo()
	if _, err := s.call(kept, "fetch", "origin", "--tags", "--force", "--prune"); err != nil {
		t.Fatal(err)
	}
	packs, err := filepath.Glob(filepath.Join(s.host.dir, name, "objects/pack/*.pack"))
	if err != nil || len(packs) != 1 {
		t.Fatal(packs, err)
	}
	for _, harm := range []func() error{
		func() error { return os.Truncate(packs[0], 40) },
		func() error { return os.WriteFile(filepath.Join(s.host.dir, name, "HEAD"), []byte("x"), 0o600) },
		func() error { return os.RemoveAll(filepath.Join(s.host.dir, name, "objects")) },
	} {
		if err := os.Chmod(packs[0], 0o600); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		if out, err := s.try("clone", "-q", s.read, filepath.Join(t.TempDir(), "clone")); err == nil {
			t.Errorf("a damaged repository was cloned: %s", out)
		}
		dir := s.argo()
		if _, err := s.call(dir, "fetch", "origin", "--tags", "--force", "--prune"); err == nil {
			t.Error("a damaged repository was fetched")
		}
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, s.write, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatal(response, err)
	}
	_ = response.Body.Close()
	// Another history, to who has the one of before.
	s.must("checkout", "-q", "--orphan", "anew")
	hash := s.commit("a", "two")
	s.must("push", s.write, "anew:"+branch)
	if _, err := s.call(kept, "fetch", "origin", "--tags", "--force", "--prune"); err != nil {
		t.Error(err)
	}
	if _, err := s.call(kept, "checkout", "--force", hash); err != nil {
		t.Error(err)
	}
	s.must("clone", "-q", s.read, filepath.Join(t.TempDir(), "clone"))
}
