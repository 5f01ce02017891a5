package gitrepo

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// bare is a repository to push to.
func bare(t *testing.T) (dir string) {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not on PATH")
	}
	dir = t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "git", "init", "-q", "--bare", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

func clone(t *testing.T, url string) *Repository {
	t.Helper()
	r, err := Clone(t.Context(), url, "main", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *Repository) mustCommit(t *testing.T, files map[string]string) string {
	t.Helper()
	all := map[string][]byte{}
	for path, text := range files {
		all[path] = []byte(text)
	}
	if err := r.Commit(t.Context(), all, Author{"Ada <x>\n", "ada@example.org", time.Unix(1, 0)}, "message"); err != nil {
		t.Fatal(err)
	}
	return r.Head
}

// What is committed is pushed and read back; the same files are no second commit, the files of before are a third.
func TestRoundTrip(t *testing.T) {
	t.Setenv("GIT_DIR", "/nowhere") // as in a hook
	url := bare(t)
	r := clone(t, url)
	if r.Head != "" {
		t.Errorf("an empty repository is at %s", r.Head)
	}
	first := r.mustCommit(t, map[string]string{"a/m": "one\n", "b/m": "data 3\n"})
	if again := r.mustCommit(t, map[string]string{"a/m": "one\n", "b/m": "data 3\n"}); again != first {
		t.Errorf("nothing changed, and %s became %s", first, again)
	}
	second := r.mustCommit(t, map[string]string{"a/m": "two\n"})
	if err := r.Push(t.Context()); err != nil {
		t.Fatal(err)
	}
	r = clone(t, url)
	if r.Head != second || !r.Has(t.Context(), first) || r.Has(t.Context(), strings.Repeat("ab", 20)) {
		t.Errorf("it is at %s, pushed was %s", r.Head, second)
	}
	for _, c := range []struct{ commit, path, want string }{{first, "a/m", "one\n"}, {first, "b/m", "data 3\n"}, {second, "a/m", "two\n"}} {
		if got, err := r.Read(t.Context(), c.commit, c.path); err != nil || string(got) != c.want {
			t.Errorf("%s of %s: %q, %v", c.path, c.commit, got, err)
		}
	}
	if _, err := r.Read(t.Context(), second, "b/m"); err == nil {
		t.Error("what was left out is there")
	}
	if back := r.mustCommit(t, map[string]string{"a/m": "one\n", "b/m": "data 3\n"}); back == first {
		t.Error("going back made no commit")
	}
}

// Of two who push, the second is told; a repository that is damaged is no empty one.
func TestPushRefused(t *testing.T) {
	url := bare(t)
	one, other := clone(t, url), clone(t, url)
	one.mustCommit(t, map[string]string{"a": "one"})
	other.mustCommit(t, map[string]string{"a": "other"})
	if err := one.Push(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := other.Push(t.Context()); err == nil || !strings.Contains(err.Error(), "rejected") {
		t.Errorf("%v", err)
	}
	if err := os.RemoveAll(filepath.Join(url, "objects")); err != nil {
		t.Fatal(err)
	}
	if _, err := Clone(t.Context(), url, "main", t.TempDir()); err == nil {
		t.Error("a damaged repository was cloned")
	}
}
