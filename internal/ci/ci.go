package ci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/failure"
)

// Job is one thing that must hold.
type Job struct {
	Name  string `json:"name"`
	Short string `json:"short"`
	// Of are the jobs of which this one consists.
	Of []string `json:"of,omitempty"`

	stages  []string // of .ci/run
	ordered bool     // what comes after a failure is not run
	run     func(context.Context, *Runner) error
}

// Results of a job.
const (
	Passed  = "passed"
	Failed  = "failed"
	Skipped = "skipped"
)

// Result is what became of a job.
type Result struct {
	Job     string  `json:"job"`
	Result  string  `json:"result"`
	Why     string  `json:"why,omitempty"`
	Seconds float64 `json:"seconds"`
}

// Skip is the error of a job that cannot run here.
type Skip struct{ Why string }

func (s Skip) Error() string { return "skipped: " + s.Why }

func skipf(format string, a ...any) error { return Skip{fmt.Sprintf(format, a...)} }

var jobs = []Job{
	{Name: "format", Short: "Go files are formatted", stages: []string{"format"}},
	{Name: "vet", Short: "go vet", stages: []string{"vet"}},
	{Name: "lint", Short: "golangci-lint", stages: []string{"lint"}},
	{Name: "modules", Short: "go.mod is tidy, modules are what go.sum says", stages: []string{"modules"}},
	{Name: "unit", Short: "go test of everything that needs no cluster", stages: []string{"unit", "pinned"}},
	{Name: "race", Short: "the race detector, where it pays", stages: []string{"race"}},
	{Name: "fuzz", Short: "a few seconds of each fuzz target", stages: []string{"fuzz"}},
	{Name: "licences", Short: "licences of all that is linked", run: licences},
	{Name: "lock", Short: "what is compiled is as locked", stages: []string{"locked"}},
	{Name: "e2e", Short: "a whole platform: up, verify, down", stages: []string{"e2e"}},
	{Name: "conformance", Short: "Kubernetes' own tests", stages: []string{"conformance"}},
	{Name: "pins", Short: "actions are pinned by commit, jobs have few rights and end", run: pins},
	{Name: "tags", Short: "commits of actions are what their tags say (asks GitHub)", run: tags},
	{Name: "copies", Short: ".github is what cicd/github says", run: copies},
	{Name: "commits", Short: "messages of commits since main", run: commits},
	{Name: "links", Short: "relative links of documents lead somewhere", run: links},
	{Name: "actionlint", Short: "workflows are well-formed", run: actionlint},
	{Name: "secrets", Short: "nothing in infra/secrets can be read by everybody", run: secretFiles},
	{Name: "gitleaks", Short: "no key is in the tree", run: gitleaks},
	{Name: "govulncheck", Short: "no known vulnerability is called", run: govulncheck},
	{Name: "trivy", Short: "vulnerabilities, misconfiguration and secrets of the tree", run: trivy},
	{Name: "rust", Short: "a Cargo workspace: rustfmt, clippy, cargo-audit, cargo-deny, wasm-pack", run: rust},
	{Name: "reproducible", Short: "two builds in two places are the same bits", run: reproducible},
	{Name: "build", Short: "all of a pull request", Of: []string{
		"format", "vet", "lint", "modules", "copies", "pins", "links", "actionlint", "commits", "unit", "race", "fuzz",
		"licences", "secrets", "gitleaks", "govulncheck", "trivy", "rust", "lock", "reproducible"}},
	{Name: "gates", Short: "what .ci/run does not do by itself and needs no network", Of: []string{
		"copies", "pins", "links", "commits", "secrets", "actionlint", "gitleaks"}},
	{Name: "test", Short: "all of a push to main", Of: []string{"e2e"}},
	{Name: "nightly", Short: "all of a night", Of: []string{"fuzz", "conformance", "tags", "govulncheck", "trivy"}},
	{Name: "released", Short: "no vulnerability became known in the newest release (asks GitHub)", run: scanReleased},
	{Name: "update", Short: "newer modules of the command line, where they pass", run: updates},

	{Name: "release-version", Short: "HEAD is clean, and its tag the version of the changelog", run: releasing((*release).version)},
	{Name: "release-binaries", Short: "the command line for Linux and, as a client, for macOS", run: releasing((*release).binaries)},
	{Name: "release-sbom", Short: "bills of materials, ours and syft's, compared", run: releasing((*release).sboms)},
	{Name: "release-images", Short: "images are compiled and pushed to a registry", run: releasing((*release).images)},
	{Name: "release-cache", Short: "what is compiled is pushed to a registry", run: releasing((*release).cache)},
	{Name: "release-bundle", Short: "the platform in one file", run: releasing((*release).bundle)},
	{Name: "release-checksums", Short: "SHA256SUMS", run: releasing((*release).checksums)},
	{Name: "release-sign", Short: "signatures by the workflow's identity, or by a key", run: releasing((*release).sign)},
	{Name: "release-draft", Short: "a draft on GitHub has all of it", run: releasing((*release).draft)},
	{Name: "release-verify", Short: "what was published is read back and checked", run: releasing((*release).verify)},
	{Name: "release-undraft", Short: "what was verified is published", run: releasing((*release).undraft)},
	{Name: "release-bump", Short: "digests of the images move in infra/k8s/overlays", run: releasing((*release).bump)},
	{Name: "release-make", Short: "all that is released, made and signed", ordered: true, Of: making},
	{Name: "release-publish", Short: "it is published, once it is verified", ordered: true, Of: publishing},
	{Name: "release", Short: "all of a tag", ordered: true, Of: slices.Concat(making, publishing)},
}

var (
	making = []string{"release-version", "release-binaries", "release-sbom", "release-images", "release-cache", "release-bundle",
		"release-checksums", "release-sign"}
	publishing = []string{"release-draft", "release-verify", "release-undraft"}
)

// Jobs are all jobs, in the order in which `build` runs them.
func Jobs() []Job { return slices.Clone(jobs) }

// Runner runs jobs in a clone.
type Runner struct {
	Root string    // of the clone
	Out  io.Writer // what the jobs print
	Env  []string  // beside the environment of the process
	Self string    // the program orrery, for what this package does not know; "" where there is none
}

// Root finds the clone that holds dir.
func Root(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, ".ci", "run")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", failure.Usagef("%s is in no clone of orrery: go into one, it has .ci/run", dir)
		}
	}
}

// Run runs a job, or those of which it consists, to the end. The error says that there is no
// such job; what failed is in the results.
func (r *Runner) Run(ctx context.Context, name string) ([]Result, error) {
	job, err := find(name)
	if err != nil {
		return nil, err
	}
	names := job.Of
	if len(names) == 0 {
		names = []string{name}
	}
	var results []Result
	stopped := ""
	for _, n := range names {
		if stopped != "" {
			results = append(results, Result{Job: n, Result: Skipped, Why: stopped + " failed, and comes before"})
			continue
		}
		j, err := find(n)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(r.Out, "\n== %s\n", n)
		start := time.Now()
		err = r.logged(ctx, j)
		result := Result{Job: n, Result: Passed, Seconds: time.Since(start).Seconds()}
		if s, ok := errors.AsType[Skip](err); ok {
			result.Result, result.Why = Skipped, s.Why
		} else if err != nil {
			result.Result, result.Why = Failed, err.Error()
			fmt.Fprintln(r.Out, err)
			if job.ordered {
				stopped = n
			}
		}
		results = append(results, result)
		if ctx.Err() != nil {
			return results, ctx.Err()
		}
	}
	return results, nil
}

func find(name string) (Job, error) {
	for _, j := range jobs {
		if j.Name == name {
			return j, nil
		}
	}
	return Job{}, failure.Usagef("there is no job %q: 'orrery ci list' names them", name)
}

// logged runs a job, and keeps what it prints in a file of the folder that ORRERY_CI_LOGS names.
func (r *Runner) logged(ctx context.Context, j Job) (err error) {
	dir := os.Getenv("ORRERY_CI_LOGS")
	if dir == "" {
		return r.one(ctx, j)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("keep the log: %w", err)
	}
	f, err := os.Create(filepath.Join(dir, j.Name+".log"))
	if err != nil {
		return fmt.Errorf("keep the log: %w", err)
	}
	to := *r
	to.Out = io.MultiWriter(r.Out, f)
	err = to.one(ctx, j)
	if err != nil {
		fmt.Fprintln(f, err)
	}
	return errors.Join(err, f.Close())
}

func (r *Runner) one(ctx context.Context, j Job) error {
	if j.run != nil {
		return j.run(ctx, r)
	}
	return r.stages(ctx, j.stages)
}

var stageLine = regexp.MustCompile(`(?m)^(\S+) +(passed|FAILED|skipped) +\d+ s$`)

// stages runs stages of .ci/run, and reads in its summary which of them were skipped.
func (r *Runner) stages(ctx context.Context, stages []string) error {
	var out bytes.Buffer
	cmd := r.command(ctx, filepath.Join(r.Root, ".ci", "run"), stages...)
	cmd.Stdout = io.MultiWriter(r.Out, &out)
	cmd.Stderr = cmd.Stdout
	if err := cmd.Run(); err != nil {
		return fmt.Errorf(".ci/run %s: %w", strings.Join(stages, " "), err)
	}
	return skippedStages(out.String())
}

func skippedStages(out string) error {
	_, summary, _ := strings.Cut(out, "\n== summary")
	_, reasons, _ := strings.Cut(summary, "\nskipped:\n")
	for _, m := range stageLine.FindAllStringSubmatch(summary, -1) {
		if m[2] != "skipped" {
			continue
		}
		why := m[1] + " says no reason"
		for line := range strings.Lines(reasons) {
			if reason, ok := strings.CutPrefix(strings.TrimSpace(line), m[1]+": "); ok {
				why = reason
				break
			}
		}
		return Skip{why}
	}
	return nil
}

func (r *Runner) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = r.Root
	// A clone that belongs to another user makes git refuse, and go build with it.
	cmd.Env = append(append(os.Environ(), "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -buildvcs=false")), r.Env...)
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// do runs a program whose output goes to the log of the job.
func (r *Runner) do(ctx context.Context, name string, args ...string) error {
	cmd := r.command(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = r.Out, r.Out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(name), err)
	}
	return nil
}

// git runs git in the clone, whoever owns it.
func (r *Runner) git(ctx context.Context, args ...string) (string, error) {
	if _, err := exec.LookPath("git"); err != nil {
		return "", Skip{"git is not on PATH"}
	}
	cmd := r.command(ctx, "git", append([]string{"-c", "safe.directory=*"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimRight(string(out), "\n"), nil
}

// tool is the path of a pinned tool: compiled, unless that was done before. With compile false
// only one that is there already counts.
func (r *Runner) tool(ctx context.Context, name string, compile bool) (string, error) {
	build := filepath.Join(r.Root, "tools", "build")
	out, err := r.command(ctx, build, "--cached", name).Output()
	if err != nil {
		if !compile {
			return "", skipf("%s is not compiled: tools/build %s does it", name, name)
		}
		cmd := r.command(ctx, build, name)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if out, err = cmd.Output(); err != nil {
			return "", skipf("%s cannot be compiled here: %s", name, lastLine(stderr.String()))
		}
	}
	return strings.TrimSpace(string(out)), nil
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// Summary writes results as a table, of Markdown when asked to.
func Summary(w io.Writer, results []Result, markdown bool) {
	if markdown {
		fmt.Fprint(w, "| job | result | seconds |\n|---|---|---|\n")
	}
	for _, r := range results {
		said := r.Result
		if r.Why != "" {
			said += ": " + strings.ReplaceAll(lastLine(r.Why), "|", `\|`)
		}
		if markdown {
			fmt.Fprintf(w, "| %s | %s | %.1f |\n", r.Job, said, r.Seconds)
		} else {
			fmt.Fprintf(w, "%-18s %6.1f s  %s\n", r.Job, r.Seconds, said)
		}
	}
}

// Bad says whether results stop a merge; strict: also when something was skipped.
func Bad(results []Result, strict bool) bool {
	return slices.ContainsFunc(results, func(r Result) bool { return r.Result == Failed || strict && r.Result == Skipped })
}
