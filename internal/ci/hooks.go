package ci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/orrery-dev/orrery/internal/secrets"
)

const hookMark = "# Written by 'orrery dev hooks install'."

// hookScripts call orrery, built or from source, so that they stay current.
func hookScripts() map[string]string {
	call := "#!/bin/sh\n" + hookMark + "\nif command -v orrery >/dev/null; then exec orrery dev hooks run %[1]s; fi\n" +
		"exec go run ./cmd/orrery dev hooks run %[1]s\n"
	return map[string]string{
		"pre-commit": fmt.Sprintf(call, "pre-commit"),
		"commit-msg": fmt.Sprintf(call, `commit-msg "$1"`),
	}
}

// InstallHooks writes the hooks of the clone and says which files they are. A hook that
// somebody else wrote stays, and is an error.
func (r *Runner) InstallHooks(ctx context.Context) ([]string, error) {
	dir, err := r.git(ctx, "rev-parse", "--git-path", "hooks")
	if err != nil {
		return nil, fmt.Errorf("find the hooks of this clone: %w", err)
	}
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(r.Root, dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	var files []string
	for _, name := range []string{"pre-commit", "commit-msg"} {
		file := filepath.Join(dir, name)
		if have, err := os.ReadFile(file); err == nil && !strings.Contains(string(have), hookMark) {
			return files, fmt.Errorf("%s is somebody else's hook: move it away, or call 'orrery dev hooks run %s' from it", file, name)
		}
		if err := os.WriteFile(file, []byte(hookScripts()[name]), 0o755); err != nil {
			return files, fmt.Errorf("write a hook: %w", err)
		}
		files = append(files, file)
	}
	return files, nil
}

// Hook runs a hook: pre-commit, or commit-msg with the file of the message. What it left out
// it says to Out.
func (r *Runner) Hook(ctx context.Context, name string, args []string) error {
	switch {
	case name == "commit-msg" && len(args) == 1:
		data, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		return CheckMessage(string(data))
	case name == "pre-commit" && len(args) == 0:
		return r.preCommit(ctx)
	}
	return errors.New("want: pre-commit, or commit-msg FILE")
}

func (r *Runner) preCommit(ctx context.Context) error {
	out, err := r.git(ctx, "diff", "--cached", "--name-only", "--diff-filter=ACMR", "-z")
	if err != nil {
		return err
	}
	var files []string
	if out != "" {
		files = strings.Split(strings.Trim(out, "\x00"), "\x00")
	}
	for _, check := range []func(context.Context, []string) error{r.stagedFormat, r.stagedSecrets, r.stagedKeys, r.stagedCopies, r.stagedLock} {
		err := check(ctx, files)
		if s, ok := errors.AsType[Skip](err); ok {
			fmt.Fprintln(r.Out, s.Error())
		} else if err != nil {
			return err
		}
	}
	return nil
}

// stagedFormat looks at what is staged, not at the file in the tree.
func (r *Runner) stagedFormat(ctx context.Context, files []string) error {
	var bad []string
	for _, f := range files {
		if filepath.Ext(f) != ".go" {
			continue
		}
		data, err := r.git(ctx, "show", ":"+f)
		if err != nil {
			return err
		}
		cmd := r.command(ctx, "gofmt", "-l")
		cmd.Stdin = strings.NewReader(data + "\n")
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			bad = append(bad, f+" is not formatted: gofmt -w "+f+" && git add "+f)
		}
	}
	return refuse(bad)
}

// stagedSecrets refuses what SOPS did not encrypt.
func (r *Runner) stagedSecrets(ctx context.Context, files []string) error {
	var bad []string
	for _, f := range files {
		if !strings.HasPrefix(f, "infra/secrets/") {
			continue
		}
		data, err := r.git(ctx, "show", ":"+f)
		if err != nil {
			return err
		}
		if plain(f, []byte(data)) {
			bad = append(bad, f+" is not encrypted: it must not be committed")
		}
	}
	return refuse(bad)
}

// secretFiles looks at all of infra/secrets, as the hook does at what is staged.
func secretFiles(_ context.Context, r *Runner) error {
	files, err := tree(filepath.Join(r.Root, "infra", "secrets"))
	if err != nil {
		return err
	}
	var bad []string
	for f, data := range files {
		if f != "age-key.txt" && plain(f, data) { // git ignores the key
			bad = append(bad, "infra/secrets/"+f+" is not encrypted: it must not be committed")
		}
	}
	return refuse(bad)
}

// plain says whether a file of infra/secrets can be read by everybody and must not be.
func plain(name string, data []byte) bool {
	if bytes.Contains(data, []byte("AGE-SECRET-KEY-1")) {
		return true
	}
	switch filepath.Ext(name) {
	case ".md", ".gitignore":
		return false
	}
	return secrets.Encrypted(data) != nil
}

func (r *Runner) stagedKeys(ctx context.Context, files []string) error {
	if len(files) == 0 {
		return nil
	}
	tool, err := r.tool(ctx, "gitleaks", false)
	if err != nil {
		return err
	}
	return r.do(ctx, tool, "git", "--staged", "--no-banner", "--redact", "--log-level", "warn",
		"--config", filepath.Join(r.Root, ".gitleaks.toml"), ".")
}

func (r *Runner) stagedCopies(ctx context.Context, files []string) error {
	for _, f := range files {
		if strings.HasPrefix(f, "cicd/github/") || strings.HasPrefix(f, ".github/") {
			return errors.Join(copies(ctx, r), pins(ctx, r))
		}
	}
	return nil
}

// stagedLock compares the lock with what it is of, when something that it may be of is staged. It looks at the tree, of
// which the index is a part as a rule.
func (r *Runner) stagedLock(ctx context.Context, files []string) error {
	concerns := func(f string) bool {
		return f == "orrery.lock" || strings.HasPrefix(f, "apps/") || strings.HasPrefix(f, "infra/") && !strings.HasPrefix(f, "infra/secrets/")
	}
	if !slices.ContainsFunc(files, concerns) {
		return nil
	}
	if r.Self == "" {
		return Skip{"nothing was given to compare orrery.lock with"}
	}
	if err := r.do(ctx, r.Self, "lock", "--check"); err != nil {
		return fmt.Errorf("orrery.lock is not what the tree says: orrery lock && git add orrery.lock (%w)", err)
	}
	return nil
}
