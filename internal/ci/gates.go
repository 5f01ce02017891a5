package ci

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

type workflow struct {
	Permissions yaml.Node `yaml:"permissions"`
	Concurrency yaml.Node `yaml:"concurrency"`
	Jobs        map[string]struct {
		Timeout     int       `yaml:"timeout-minutes"`
		Permissions yaml.Node `yaml:"permissions"`
		Uses        string    `yaml:"uses"`
		Steps       []step    `yaml:"steps"`
	} `yaml:"jobs"`
	Runs struct {
		Steps []step `yaml:"steps"`
	} `yaml:"runs"`
}

type step struct {
	Uses string            `yaml:"uses"`
	With map[string]string `yaml:"with"`
}

var usesCommit = regexp.MustCompile(`^([\w.-]+/[\w./-]+)@([0-9a-f]{40})$`)

// checkWorkflow says what a workflow, or a composite action, does that it must not.
func checkWorkflow(name string, data []byte) []string {
	var w workflow
	if err := yaml.Unmarshal(data, &w); err != nil {
		return []string{fmt.Sprintf("%s: %v", name, err)}
	}
	var bad []string
	say := func(format string, a ...any) { bad = append(bad, name+": "+fmt.Sprintf(format, a...)) }
	steps := w.Runs.Steps
	if len(w.Jobs) > 0 {
		if w.Permissions.IsZero() {
			say("no permissions at the top: say 'permissions: {}' and give each job what it needs")
		}
		if w.Permissions.Value == "write-all" {
			say("permissions: write-all")
		}
		if w.Concurrency.IsZero() {
			say("no concurrency")
		}
	}
	for job, j := range w.Jobs {
		if j.Timeout == 0 {
			say("job %s has no timeout-minutes", job)
		}
		if j.Permissions.IsZero() || j.Permissions.Value == "write-all" {
			say("job %s names no permissions", job)
		}
		steps = append(steps, step{Uses: j.Uses})
		steps = append(steps, j.Steps...)
	}
	for _, s := range steps {
		if s.Uses == "" || strings.HasPrefix(s.Uses, "./") {
			continue
		}
		if !usesCommit.MatchString(s.Uses) {
			say("%s is not pinned by a commit: tags move", s.Uses)
		}
		if strings.HasPrefix(s.Uses, "actions/checkout@") && s.With["persist-credentials"] != "false" {
			say("checkout without persist-credentials: false leaves a token in the clone")
		}
	}
	slices.Sort(bad)
	return bad
}

// workflows are the files under cicd/github, by their path below it.
func (r *Runner) workflows() (map[string][]byte, error) {
	return tree(filepath.Join(r.Root, "cicd/github"))
}

func tree(root string) (map[string][]byte, error) {
	files := map[string][]byte{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		files[rel], err = os.ReadFile(path)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return files, err
}

func pins(_ context.Context, r *Runner) error {
	files, err := r.workflows()
	if err != nil {
		return err
	}
	var bad []string
	for name, data := range files {
		bad = append(bad, checkWorkflow(name, data)...)
	}
	return refuse(bad)
}

func refuse(bad []string) error {
	if len(bad) == 0 {
		return nil
	}
	slices.Sort(bad)
	return errors.New(strings.Join(bad, "\n"))
}

var pinned = regexp.MustCompile(`(?m)uses: *([\w.-]+/[\w.-]+)[\w./-]*@([0-9a-f]{40}) # (v[\w.]+)`)

// tags compares the commits of actions with the tags that their comments name.
func tags(ctx context.Context, r *Runner) error { return checkTags(ctx, r, "https://github.com/") }

func checkTags(ctx context.Context, r *Runner, base string) error {
	files, err := r.workflows()
	if err != nil {
		return err
	}
	var bad []string
	asked := map[string]bool{}
	for name, data := range files {
		for _, m := range pinned.FindAllStringSubmatch(string(data), -1) {
			if asked[m[0]] {
				continue
			}
			asked[m[0]] = true
			out, err := r.git(ctx, "-c", "credential.helper=", "ls-remote", base+m[1], "refs/tags/"+m[3], "refs/tags/"+m[3]+"^{}")
			if err != nil {
				return skipf("%s cannot be asked: %s", base+m[1], lastLine(err.Error()))
			}
			// The last line is the commit, also of a tag with a message.
			if commit, _, _ := strings.Cut(lastLine(out), "\t"); commit != m[2] {
				bad = append(bad, fmt.Sprintf("%s: tag %s of %s is %s, pinned is %s: the tag was moved, or the comment is wrong", name, m[3], m[1],
					commit, m[2]))
			}
		}
	}
	return refuse(bad)
}

func copies(_ context.Context, r *Runner) error {
	want, err := r.workflows()
	if err != nil {
		return err
	}
	have, err := tree(filepath.Join(r.Root, ".github"))
	if err != nil {
		return err
	}
	var bad []string
	for name, data := range want {
		if !bytes.Equal(have[name], data) {
			bad = append(bad, ".github/"+name+" is not cicd/github/"+name+": orrery dev generate")
		}
		delete(have, name)
	}
	for name := range have {
		bad = append(bad, ".github/"+name+" has no source in cicd/github")
	}
	return refuse(bad)
}

// Generate writes .github anew from cicd/github.
func Generate(root string) error {
	files, err := tree(filepath.Join(root, "cicd/github"))
	if err != nil {
		return err
	}
	for name, data := range files {
		to := filepath.Join(root, ".github", name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, data, 0o644); err != nil {
			return fmt.Errorf("write a copy of cicd/github/%s: %w", name, err)
		}
	}
	return nil
}

// CheckMessage says what is wrong with the message of a commit.
func CheckMessage(message string) error {
	var lines []string
	for line := range strings.Lines(message) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.TrimRight(line, " \t\r\n"))
		}
	}
	if len(lines) == 0 || lines[0] == "" {
		return errors.New("the first line is empty: say what changes, and why")
	}
	first := lines[0]
	for _, word := range []string{"Merge ", "Revert "} {
		if strings.HasPrefix(first, word) {
			return nil
		}
	}
	lower := strings.ToLower(first)
	for _, word := range []string{"wip", "fixup!", "squash!", "amend!"} {
		if lower == word || strings.HasPrefix(lower, word+" ") || strings.HasPrefix(lower, word+":") {
			return fmt.Errorf("%q is unfinished: squash it", first)
		}
	}
	switch n := len([]rune(first)); {
	case n < 10:
		return fmt.Errorf("%q does not say why", first)
	case n > 120:
		return fmt.Errorf("the first line has %d characters: at most 120", n)
	case strings.HasSuffix(first, "."):
		return fmt.Errorf("%q ends with a full stop", first)
	case len(lines) > 1 && lines[1] != "":
		return errors.New("the second line is not empty")
	}
	return nil
}

// commits looks at the messages since the base: ORRERY_CI_BASE, or main.
func commits(ctx context.Context, r *Runner) error {
	if _, err := r.git(ctx, "rev-parse", "HEAD"); err != nil {
		return skipf("no commits: %s", lastLine(err.Error()))
	}
	if shallow, _ := r.git(ctx, "rev-parse", "--is-shallow-repository"); shallow == "true" {
		return Skip{"the clone is shallow: git fetch --unshallow"}
	}
	span := ""
	for _, base := range []string{os.Getenv("ORRERY_CI_BASE"), "origin/main", "main"} {
		if base == "" {
			continue
		}
		if _, err := r.git(ctx, "rev-parse", "--verify", "--quiet", base+"^{commit}"); err == nil {
			span = base + "..HEAD"
			break
		}
	}
	if span == "" {
		return Skip{"there is no main to compare with: set ORRERY_CI_BASE"}
	}
	out, err := r.git(ctx, "log", "--no-merges", "--format=%h%n%B%x00", span)
	if err != nil {
		return err
	}
	var bad []string
	for entry := range strings.SplitSeq(out, "\x00") {
		hash, message, ok := strings.Cut(strings.TrimLeft(entry, "\n"), "\n")
		if !ok {
			continue
		}
		if err := CheckMessage(message); err != nil {
			bad = append(bad, "commit "+hash+": "+err.Error())
		}
	}
	return refuse(bad)
}

var link = regexp.MustCompile(`\]\(([^)\s#]+)(#[^)]*)?\)`)

func links(_ context.Context, r *Runner) error {
	var bad []string
	err := filepath.WalkDir(r.Root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "testdata" || d.Name() == "node_modules") {
			return fs.SkipDir
		}
		if d.IsDir() || filepath.Ext(path) != ".md" {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range link.FindAllStringSubmatch(string(data), -1) {
			if strings.Contains(m[1], ":") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				rel, _ := filepath.Rel(r.Root, path)
				bad = append(bad, rel+": "+m[1]+" is not there")
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return refuse(bad)
}

func actionlint(ctx context.Context, r *Runner) error {
	tool, err := r.tool(ctx, "actionlint", true)
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(r.Root, "cicd/github/workflows/*.yml"))
	if err != nil {
		return err
	}
	// Without shellcheck, so that every machine says the same.
	return r.do(ctx, tool, append([]string{"-shellcheck=", "-pyflakes="}, files...)...)
}

func gitleaks(ctx context.Context, r *Runner) error {
	tool, err := r.tool(ctx, "gitleaks", true)
	if err != nil {
		return err
	}
	return r.do(ctx, tool, "dir", "--no-banner", "--redact", "--config", filepath.Join(r.Root, ".gitleaks.toml"), ".")
}

// govulncheck asks vuln.go.dev, or ORRERY_VULNDB.
func govulncheck(ctx context.Context, r *Runner) error {
	return r.vulnerabilities(ctx, r.Root, "./...")
}

var noDatabase = regexp.MustCompile(`(?m)fetching vulnerabilities|^creating client: `)

func (r *Runner) vulnerabilities(ctx context.Context, dir string, args ...string) error {
	tool, err := r.tool(ctx, "govulncheck", true)
	if err != nil {
		return err
	}
	if db := os.Getenv("ORRERY_VULNDB"); db != "" {
		args = append([]string{"-db", db}, args...)
	}
	var out bytes.Buffer
	cmd := r.command(ctx, tool, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &out
	err = cmd.Run()
	_, _ = r.Out.Write(out.Bytes())
	// It ends with 3 when it found something, and with 1 when it could not look.
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 1 && noDatabase.MatchString(out.String()) {
		return skipf("the database of vulnerabilities cannot be reached: %s", lastLine(out.String()))
	}
	if err != nil {
		return fmt.Errorf("govulncheck: %w", err)
	}
	return nil
}

func trivy(ctx context.Context, r *Runner) error {
	tool, err := exec.LookPath("trivy")
	if err != nil {
		return Skip{"trivy is not on PATH"}
	}
	return r.do(ctx, tool, "fs", "--scanners", "vuln,misconfig,secret", "--severity", "HIGH,CRITICAL", "--exit-code", "1", "--quiet", ".")
}

// rust holds a Cargo workspace to its format and to clippy, and to what the other tools say that
// are on PATH; those that are not are named, and the job counts as skipped.
func rust(ctx context.Context, r *Runner) error {
	manifest, err := os.ReadFile(filepath.Join(r.Root, "Cargo.toml"))
	if err != nil {
		return Skip{"there is no Cargo workspace"}
	}
	if _, err := exec.LookPath("cargo"); err != nil {
		return Skip{"cargo is not on PATH"}
	}
	var missing []string
	for _, c := range []struct {
		tool string
		args []string
	}{
		{"cargo-fmt", []string{"cargo", "fmt", "--all", "--check"}},
		{"cargo-clippy", []string{"cargo", "clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"}},
		{"cargo-audit", []string{"cargo", "audit", "--deny", "warnings"}},
		{"cargo-deny", []string{"cargo", "deny", "check"}},
		{"wasm-pack", []string{"wasm-pack", "build", "--release"}},
	} {
		if c.tool == "wasm-pack" && !bytes.Contains(manifest, []byte("cdylib")) {
			continue // nothing for the web
		}
		if _, err := exec.LookPath(c.tool); err != nil {
			missing = append(missing, c.tool)
			continue
		}
		if err := r.do(ctx, c.args[0], c.args[1:]...); err != nil {
			return fmt.Errorf("%s: %w", c.tool, err)
		}
	}
	if len(missing) > 0 {
		return skipf("what is on PATH passed; not on PATH: %s (nix develop has them)", strings.Join(missing, ", "))
	}
	return nil
}

func reproducible(ctx context.Context, r *Runner) error {
	return r.sameTwice(ctx, "bin", "go", "build", "-trimpath", "-o", "bin", "./cmd/orrery")
}

// sameTwice runs a build in two copies of what git has at HEAD, at paths of different length,
// the second with nothing compiled before, and compares what came out.
func (r *Runner) sameTwice(ctx context.Context, artifact, name string, args ...string) error {
	tmp, err := os.MkdirTemp("", "orrery-twice-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	tarball := filepath.Join(tmp, "tree.tar")
	if _, err := r.git(ctx, "archive", "-o", tarball, "HEAD"); err != nil {
		return err
	}
	var sums []string
	for i, dir := range []string{filepath.Join(tmp, "a"), filepath.Join(tmp, "some", "where", "else")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := r.do(ctx, "tar", "-xf", tarball, "-C", dir); err != nil {
			return err
		}
		cmd := r.command(ctx, name, args...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, r.Out, r.Out
		if i == 1 {
			cmd.Env = append(cmd.Env, "GOCACHE="+filepath.Join(tmp, "cache"))
		}
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("build %d: %w", i+1, err)
		}
		data, err := os.ReadFile(filepath.Join(dir, artifact))
		if err != nil {
			return fmt.Errorf("build %d left no %s: %w", i+1, artifact, err)
		}
		sums = append(sums, fmt.Sprintf("%x", sha256.Sum256(data)))
	}
	if sums[0] != sums[1] {
		return fmt.Errorf("two builds of one commit differ: sha256 %s and %s", sums[0], sums[1])
	}
	fmt.Fprintln(r.Out, artifact, "sha256", sums[0])
	return nil
}
