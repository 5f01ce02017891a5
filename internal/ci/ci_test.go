package ci

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/orrery-dev/orrery/internal/secrets"
)

const here = "../.."

func write(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, data := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// clone is a repository with one commit.
func clone(t *testing.T, files map[string]string) *Runner {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not on PATH")
	}
	root := t.TempDir()
	write(t, root, files)
	git(t, root, "init", "-q", "-b", "main")
	git(t, root, "add", "-A")
	git(t, root, "commit", "-q", "-m", "A first commit that says why", "--allow-empty")
	return &Runner{Root: root, Out: io.Discard}
}

// want compares an error with a part of what it must say; "" is no error.
func want(t *testing.T, err error, part string) {
	t.Helper()
	if part == "" && err != nil {
		t.Errorf("refused: %v", err)
	}
	if part != "" && (err == nil || !strings.Contains(err.Error(), part)) {
		t.Errorf("got %v, want %q", err, part)
	}
}

func TestThisTree(t *testing.T) {
	r := &Runner{Root: here, Out: io.Discard}
	want(t, pins(t.Context(), r), "")
	want(t, copies(t.Context(), r), "")
	want(t, links(t.Context(), r), "")
}

const good = `
on: push
permissions: {}
concurrency: x
jobs:
  a:
    timeout-minutes: 5
    permissions: {contents: read}
    steps:
      - uses: actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1
        with: {persist-credentials: false}
`

func TestPins(t *testing.T) {
	if bad := checkWorkflow("w", []byte(good)); len(bad) > 0 {
		t.Error(bad)
	}
	for _, c := range []struct{ old, new, say string }{
		{"3d3c42e5aac5ba805825da76410c181273ba90b1", "v7", "not pinned"},
		{"permissions: {}\n", "", "no permissions at the top"},
		{"    permissions: {contents: read}\n", "", "names no permissions"},
		{"{contents: read}", "write-all", "names no permissions"},
		{"    timeout-minutes: 5\n", "", "no timeout"},
		{"concurrency: x\n", "", "no concurrency"},
		{"        with: {persist-credentials: false}\n", "", "persist-credentials"},
	} {
		if bad := checkWorkflow("w", []byte(strings.Replace(good, c.old, c.new, 1))); !strings.Contains(strings.Join(bad, "\n"), c.say) {
			t.Errorf("%s: got %q", c.say, bad)
		}
	}
}

func TestTags(t *testing.T) {
	action := clone(t, map[string]string{"action.yml": "x"})
	hub := t.TempDir()
	if err := os.MkdirAll(filepath.Join(hub, "o"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(action.Root, filepath.Join(hub, "o/a")); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(hub, "o/a")
	git(t, at, "tag", "-a", "-m", "m", "v1")
	r := &Runner{Root: t.TempDir(), Out: io.Discard}
	write(t, r.Root, map[string]string{"cicd/github/workflows/a.yml": "  - uses: o/a@" + git(t, at, "rev-parse", "HEAD") + " # v1\n"})
	want(t, checkTags(t.Context(), r, "file://"+hub+"/"), "")
	git(t, at, "commit", "-q", "--allow-empty", "-m", "Something else that runs elsewhere")
	git(t, at, "tag", "-f", "v1")
	want(t, checkTags(t.Context(), r, "file://"+hub+"/"), "was moved")
	want(t, checkTags(t.Context(), r, "file:///nowhere/"), "skipped:")
}

func TestCopies(t *testing.T) {
	r := &Runner{Root: t.TempDir(), Out: io.Discard}
	write(t, r.Root, map[string]string{"cicd/github/workflows/a.yml": "a"})
	want(t, copies(t.Context(), r), "orrery dev generate")
	want(t, Generate(r.Root), "")
	want(t, copies(t.Context(), r), "")
	write(t, r.Root, map[string]string{".github/workflows/b.yml": "b"})
	want(t, copies(t.Context(), r), "no source")
}

func TestCheckMessage(t *testing.T) {
	for _, c := range []struct{ message, say string }{
		{"A port that is taken is waited for\n\nBecause it is free soon.\n# a comment\n", ""},
		{"Merge ci: workflows", ""},
		{"", "empty"},
		{"wip", "unfinished"},
		{"fixup! A port that is taken is waited for", "unfinished"},
		{"fix", "why"},
		{"A port that is taken is waited for.", "full stop"},
		{"A port that is taken\nis waited for", "second line"},
		{strings.Repeat("long ", 30) + "x", "at most 120"},
	} {
		want(t, CheckMessage(c.message), c.say)
	}
}

func TestCommits(t *testing.T) {
	r := clone(t, nil)
	git(t, r.Root, "checkout", "-q", "-b", "work")
	git(t, r.Root, "commit", "-q", "--allow-empty", "-m", "A message that says why it is")
	git(t, r.Root, "checkout", "-q", "--detach") // as a workflow has it
	want(t, commits(t.Context(), r), "")
	git(t, r.Root, "commit", "-q", "--allow-empty", "-m", "wip")
	want(t, commits(t.Context(), r), "unfinished")

	shallow := t.TempDir()
	git(t, shallow, "clone", "-q", "--depth", "1", "file://"+r.Root, "c")
	want(t, commits(t.Context(), &Runner{Root: filepath.Join(shallow, "c"), Out: io.Discard}), "skipped: the clone is shallow")
	want(t, commits(t.Context(), &Runner{Root: t.TempDir(), Out: io.Discard}), "skipped:")
}

func TestNoGit(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	want(t, commits(t.Context(), &Runner{Root: t.TempDir(), Out: io.Discard}), "git is not on PATH")
}

// Root looks at a clone that is another user's.
func TestCloneOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
	r := clone(t, nil)
	if out, err := exec.CommandContext(t.Context(), "chown", "-R", "65534:65534", r.Root).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	want(t, commits(t.Context(), r), "")
}

func TestLinks(t *testing.T) {
	r := &Runner{Root: t.TempDir(), Out: io.Discard}
	write(t, r.Root, map[string]string{"a.md": "[b](b.md#x) [web](https://example.org)", "b.md": ""})
	want(t, links(t.Context(), r), "")
	write(t, r.Root, map[string]string{"a.md": "[c](c.md)"})
	want(t, links(t.Context(), r), "a.md: c.md is not there")
}

func TestReproducible(t *testing.T) {
	r := clone(t, map[string]string{"in": "x"})
	want(t, r.sameTwice(t.Context(), "out", "cp", "in", "out"), "")
	want(t, r.sameTwice(t.Context(), "out", "sh", "-c", "pwd >out"), "differ")
	want(t, r.sameTwice(t.Context(), "out", "true"), "left no out")
}

func TestHooks(t *testing.T) {
	r := clone(t, nil)
	stage := func(files map[string]string) {
		t.Helper()
		write(t, r.Root, files)
		git(t, r.Root, "add", "-A")
	}
	files, err := r.InstallHooks(t.Context())
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	if _, err := r.InstallHooks(t.Context()); err != nil {
		t.Errorf("a second time: %v", err)
	}
	stage(map[string]string{"a.go": "package a\n"})
	want(t, r.Hook(t.Context(), "pre-commit", nil), "")
	stage(map[string]string{"a.go": "package  a\n"})
	// What counts is staged, not what lies there.
	write(t, r.Root, map[string]string{"a.go": "package a\n"})
	want(t, r.Hook(t.Context(), "pre-commit", nil), "a.go is not formatted")
	stage(map[string]string{"infra/secrets/db.yaml": "password: x\n"})
	want(t, r.Hook(t.Context(), "pre-commit", nil), "is not encrypted")
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	f := secrets.NewManifests()
	if err := f.Set("data", "db", "password", "x"); err != nil {
		t.Fatal(err)
	}
	encrypted, err := f.Encrypt([]string{key.Recipient().String()}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	stage(map[string]string{"infra/secrets/db.yaml": string(encrypted)})
	want(t, r.Hook(t.Context(), "pre-commit", nil), "")
	// What the lock is of.
	r.Out = new(bytes.Buffer)
	stage(map[string]string{"apps/pulse/main.go": "package main\n"})
	want(t, r.Hook(t.Context(), "pre-commit", nil), "")
	if said := fmt.Sprint(r.Out); !strings.Contains(said, "skipped: nothing was given to compare orrery.lock with") {
		t.Error(said)
	}
	write(t, r.Root, map[string]string{".git/orrery": "#!/bin/sh\n[ \"$*\" = 'lock --check' ] && [ ! -e .git/stale ]\n"})
	want(t, os.Chmod(filepath.Join(r.Root, ".git/orrery"), 0o755), "")
	r.Self = filepath.Join(r.Root, ".git/orrery")
	want(t, r.Hook(t.Context(), "pre-commit", nil), "")
	write(t, r.Root, map[string]string{".git/stale": ""})
	want(t, r.Hook(t.Context(), "pre-commit", nil), "orrery lock && git add orrery.lock")
	git(t, r.Root, "rm", "-q", "--cached", "-r", "apps")
	want(t, r.Hook(t.Context(), "pre-commit", nil), "") // nothing of the lock is staged
	write(t, r.Root, map[string]string{".git/hooks/pre-commit": "#!/bin/sh\n"})
	_, err = r.InstallHooks(t.Context())
	want(t, err, "somebody else's")
}

func TestResults(t *testing.T) {
	out := "== lint\n\n== summary (3 s)\nvet         passed       2 s\nlint        skipped      0 s\n\nskipped:\n  lint: not on PATH\npassed\n"
	want(t, skippedStages(out), "skipped: not on PATH")
	want(t, skippedStages(strings.ReplaceAll(out, "skipped      0", "passed      0")), "")
	rs := []Result{{Result: Passed}, {Result: Skipped}}
	if Bad(rs, false) || !Bad(rs, true) || !Bad([]Result{{Result: Failed}}, false) {
		t.Error("strict")
	}
	r := &Runner{Root: t.TempDir(), Out: io.Discard}
	rs, err := r.Run(t.Context(), "rust")
	if err != nil || rs[0].Result != Skipped || rs[0].Why != "there is no Cargo workspace" {
		t.Error(rs, err)
	}
	_, err = r.Run(t.Context(), "nothing")
	want(t, err, "there is no job")
	for _, j := range Jobs() {
		for _, of := range j.Of {
			if !slices.ContainsFunc(jobs, func(j Job) bool { return j.Name == of && len(j.Of) == 0 }) {
				t.Errorf("%s consists of %s, which is no single job", j.Name, of)
			}
		}
	}
}

func TestActionlint(t *testing.T) {
	root, err := filepath.Abs(here)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&Runner{Root: root}).tool(t.Context(), "actionlint", false); err != nil {
		t.Skip(err)
	}
	r := &Runner{Root: t.TempDir(), Out: io.Discard}
	if err := os.Symlink(filepath.Join(root, "tools"), filepath.Join(r.Root, "tools")); err != nil {
		t.Fatal(err)
	}
	lint := func(text string) error {
		write(t, r.Root, map[string]string{"cicd/github/workflows/a.yml": text})
		return actionlint(t.Context(), r)
	}
	text := strings.Replace(good, "    steps:", "    runs-on: ubuntu-24.04\n    steps:", 1)
	want(t, lint(text), "")
	want(t, lint(strings.Replace(text, "ubuntu-24.04", "${{ nope.x }}", 1)), "actionlint:")
}
