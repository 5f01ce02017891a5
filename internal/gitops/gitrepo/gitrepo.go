package gitrepo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// Repository is a clone of one branch. Everything in it was held to its hash.
type Repository struct {
	dir, url, branch string
	// Head is the commit that the branch is at here; empty before the first.
	Head string
	// pushed is where the branch of the server was.
	pushed string
}

// Clone reads a branch of a repository into a folder that is empty. A repository without the branch is an empty one.
func Clone(ctx context.Context, url, branch, dir string) (*Repository, error) {
	r, err := Init(ctx, url, branch, dir)
	if err != nil {
		return nil, err
	}
	there, err := r.git(ctx, nil, "ls-remote", url, r.ref())
	if err != nil || there == "" {
		return r, err
	}
	if _, err := r.git(ctx, nil, "fetch", "--quiet", "--no-tags", url, r.ref()+":"+r.ref()); err != nil {
		return nil, err
	}
	r.Head, err = r.git(ctx, nil, "rev-parse", r.ref())
	r.pushed = r.Head
	return r, err
}

// Init makes a repository in a folder that is empty, to be the first that is pushed to url.
func Init(ctx context.Context, url, branch, dir string) (*Repository, error) {
	r := &Repository{dir: dir, url: url, branch: branch}
	_, err := r.git(ctx, nil, "init", "--quiet", "--bare", "--initial-branch="+branch)
	return r, err
}

func (r *Repository) ref() string { return "refs/heads/" + r.branch }

// Has tells whether a commit is one of those that led to Head.
func (r *Repository) Has(ctx context.Context, commit string) bool {
	_, err := r.git(ctx, nil, "merge-base", "--is-ancestor", "--", commit, r.ref())
	return err == nil
}

// Read is a file as a commit has it.
func (r *Repository) Read(ctx context.Context, commit, path string) ([]byte, error) {
	text, err := r.run(ctx, nil, "cat-file", "blob", commit+":"+path)
	if err != nil {
		return nil, fmt.Errorf("read %s of commit %s: %w", path, commit, err)
	}
	return text, nil
}

// Author is who commits, and when.
type Author struct {
	Name, Email string
	At          time.Time
}

// Commit makes files all that there is, and the commit of that Head. Where they are already, it makes none.
func (r *Repository) Commit(ctx context.Context, files map[string][]byte, by Author, message string) error {
	const next = "refs/orrery/next"
	var in bytes.Buffer
	clean := strings.NewReplacer("<", "", ">", "", "\n", " ")
	fmt.Fprintf(&in, "commit %s\ncommitter %s <%s> %d +0000\ndata %d\n%s\n", next, clean.Replace(by.Name), clean.Replace(by.Email), by.At.Unix(), len(message), message)
	if r.Head != "" {
		fmt.Fprintf(&in, "from %s\n", r.Head)
	}
	in.WriteString("deleteall\n")
	for _, path := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&in, "M 100644 inline %s\ndata %d\n%s\n", path, len(files[path]), files[path])
	}
	if _, err := r.run(ctx, &in, "fast-import", "--quiet", "--force"); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	made, err := r.git(ctx, nil, "rev-parse", next, next+"^{tree}")
	if err != nil {
		return err
	}
	commit, tree, _ := strings.Cut(made, "\n")
	if r.Head != "" {
		if before, err := r.git(ctx, nil, "rev-parse", r.Head+"^{tree}"); err != nil || before == tree {
			return err
		}
	}
	if _, err := r.git(ctx, nil, "update-ref", r.ref(), commit); err != nil {
		return err
	}
	r.Head = commit
	return nil
}

// Push has the branch of the server be at Head, unless it moved since it was cloned.
func (r *Repository) Push(ctx context.Context) error {
	if r.Head == r.pushed {
		return nil
	}
	if _, err := r.git(ctx, nil, "push", "--quiet", r.url, r.ref()+":"+r.ref()); err != nil {
		return err
	}
	r.pushed = r.Head
	return nil
}

func (r *Repository) git(ctx context.Context, in io.Reader, args ...string) (string, error) {
	out, err := r.run(ctx, in, args...)
	return strings.TrimSpace(string(out)), err
}

func (r *Repository) run(ctx context.Context, in io.Reader, args ...string) ([]byte, error) {
	// The body of a push is sent at once: its length is known to the server.
	cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "http.postBuffer=67108864", "-c", "gc.auto=0"}, args...)...) //nolint:gosec // of ours
	cmd.Dir, cmd.Stdin, cmd.WaitDelay = r.dir, in, 5*time.Second
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); !strings.HasPrefix(name, "GIT_") && !strings.HasSuffix(strings.ToLower(name), "_proxy") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fmt.Errorf("git is not on PATH, and is what reads and pushes a git source: install it: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("git %s: %w: %s", args[0], err, strings.Join(strings.Fields(said.String()), " "))
	}
	return out, nil
}

// Person is who works in a folder, as their git knows them, and the commit that is checked out there; what is not
// known is left empty.
func Person(ctx context.Context, dir string) (by Author, commit string) {
	ask := func(args ...string) string {
		cmd := exec.CommandContext(ctx, "git", args...) //nolint:gosec // of ours
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	return Author{ask("config", "user.name"), ask("config", "user.email"), time.Now()}, ask("rev-parse", "--verify", "--quiet", "HEAD")
}
