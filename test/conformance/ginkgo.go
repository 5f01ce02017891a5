package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// phases keep apart what must not run side by side: cases that want the cluster for
// themselves, and those that hurt it.
var phases = []struct{ name, labels string }{
	{"parallel", "!Serial && !Disruptive"},
	{"serial", "Serial && !Disruptive"},
	{"disruptive", "Disruptive"},
}

// test runs the set and returns what came of each of its cases.
func (r *runner) test(ctx context.Context, images []stoodIn, folder string) (*results, error) {
	notes, err := loadNotes(filepath.Join(r.repo, "test", "conformance", "notes.yaml"))
	if err != nil {
		return nil, err
	}
	repositories := filepath.Join(r.dir, "registries.yaml")
	if err := writeRegistries(repositories, folder); err != nil {
		return nil, err
	}
	names, err := r.list(ctx)
	if err != nil {
		return nil, err
	}
	nodes, err := r.nodes(ctx)
	if err != nil {
		return nil, err
	}
	out := &results{Plugin: r.plugin, Kubernetes: r.programs.version, Images: images, Runs: []onerun{{
		Set: r.set, Focus: r.focus, Date: time.Now().UTC().Format(time.DateOnly), Nodes: nodes, Again: r.failed,
	}}}
	record, err := newRecord(r.results, r.before, out, names, r.rest)
	if err != nil {
		return nil, err
	}
	for _, p := range phases {
		r.say("%s cases", p.name)
		specs, err := r.ginkgo(ctx, p.name, p.labels, repositories, record, notes.neverRun(r.plugin))
		if err != nil {
			return nil, err
		}
		var cases []result
		for _, s := range specs {
			if c, ok := s.outcome(r.options, notes); ok {
				cases = append(cases, c)
			}
		}
		sum, err := record.add(cases...)
		if err != nil {
			return nil, err
		}
		r.say("%s", sum)
		if ctx.Err() != nil {
			r.say("interrupted: what has ended counts, -rest runs the others")
			break
		}
	}
	out.sort()
	return out, nil
}

func (r *runner) nodes(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, r.programs.kubectl, "--kubeconfig", r.kubeconfig(), "get", "nodes", "-o", "name")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("count the nodes: %w", err)
	}
	servers := strings.Count(string(out), "/server")
	return fmt.Sprintf("%d+%d", servers, len(strings.Fields(string(out)))-servers), nil
}

// spec is what is read of an entry of ginkgo's report.
type spec struct {
	Containers []string   `json:"ContainerHierarchyTexts"`
	Text       string     `json:"LeafNodeText"`
	Type       string     `json:"LeafNodeType"`
	Labels     []string   `json:"LeafNodeLabels"`
	Inherited  [][]string `json:"ContainerHierarchyLabels"`
	State      string
	RunTime    time.Duration
	Failure    struct {
		Message string
	}
}

func (s spec) name() string { return strings.Join(append(s.Containers, s.Text), " ") }

// ginkgo runs one phase and returns its report.
func (r *runner) ginkgo(ctx context.Context, phase, labels, repositories string, record *record, never []string) ([]spec, error) {
	report := phase + ".json"
	args := []string{
		"--procs=" + strconv.Itoa(r.procs), "--timeout=" + r.timeout.String(), "--no-color", "-v", "--silence-skips",
		"--json-report=" + report, "--output-dir=" + r.dir,
		"--focus=" + r.pattern(), "--label-filter=" + labels,
	}
	if phase != "parallel" {
		args[0] = "--procs=1"
	}
	for _, pattern := range append(never, r.skip) {
		if pattern != "" {
			args = append(args, "--skip="+pattern)
		}
	}
	args = append(args, r.programs.tests, "--",
		"--kubeconfig="+r.kubeconfig(), "--kubectl-path="+r.programs.kubectl, "--provider=skeleton",
		"--disable-log-dump", "--allowed-not-ready-nodes=0")
	cmd := exec.CommandContext(ctx, r.programs.ginkgo, args...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "KUBE_TEST_REPO_LIST="+repositories)
	log, err := os.Create(filepath.Join(r.dir, phase+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = &endings{log: log, record: record}, log
	// ginkgo leaves it to a terminal to interrupt those that it started; then they tidy up.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 10 * time.Minute // cases that were running remove their namespaces first
	failed := cmd.Run()
	data, err := os.ReadFile(filepath.Join(r.dir, report))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the tests ended without a report, see %s: %w", log.Name(), failed)
	} else if err != nil {
		return nil, err
	}
	return readReport(data)
}

// readReport returns the cases of a report of ginkgo.
func readReport(data []byte) ([]spec, error) {
	var suites []struct {
		SpecReports                []spec
		SpecialSuiteFailureReasons []string
	}
	if err := json.Unmarshal(data, &suites); err != nil {
		return nil, fmt.Errorf("read ginkgo's report: %w", err)
	}
	var specs []spec
	for _, s := range suites {
		for _, c := range s.SpecReports {
			switch {
			case c.Type == "It":
				specs = append(specs, c)
			case c.State != "passed" && c.State != "skipped":
				return nil, fmt.Errorf("%s of the suite %s: %s", c.Type, c.State, c.Failure.Message)
			}
		}
	}
	return specs, nil
}

// outcome is the case's of the table; false when it is of another set or phase.
func (s spec) outcome(o options, notes notes) (result, bool) {
	c := result{Name: s.name(), Seconds: float64(s.RunTime.Milliseconds()) / 1000}
	if !regexp.MustCompile(o.pattern()).MatchString(c.Name) {
		return c, false
	}
	if o.skip != "" && regexp.MustCompile(o.skip).MatchString(c.Name) {
		return c, false
	}
	switch s.State {
	case "interrupted", "aborted":
		return c, false
	case "passed":
		c.State = statePassed
	case "skipped", "pending":
		c.State, c.Seconds = stateSkipped, 0
		c.Reason = oneLine(s.Failure.Message)
		if c.Reason == "" {
			n, ok := notes.find(notes.Never, o.plugin, c.Name)
			if !ok {
				return c, false // of another phase
			}
			c.Reason = n.Why
		}
	default:
		c.State, c.Reason = stateFailed, oneLine(s.Failure.Message)
	}
	return c, true
}

// oneLine is the part of a message that fits into a table.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + " …"
	}
	return s
}
