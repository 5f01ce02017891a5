package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

type options struct {
	plugin  string
	set     string
	focus   string
	skip    string
	env     string
	cli     string
	servers int
	agents  int
	procs   int
	cache   string
	dir     string
	results string
	keep    bool
	failed  bool
	rest    bool
	names   string // exactly these cases, as a regular expression
	render  bool
	timeout time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.plugin, "plugin", "ptp", "network of the environment: ptp or cilium")
	flag.StringVar(&o.set, "set", "network", "which cases: "+strings.Join(setNames(), ", "))
	flag.StringVar(&o.focus, "focus", "", "instead of a set: cases whose name matches this regular expression")
	flag.StringVar(&o.skip, "skip", "", "leave out cases whose name matches this regular expression")
	flag.StringVar(&o.env, "env", "", "use this running environment and leave it (default: make one and remove it)")
	flag.StringVar(&o.cli, "orrery", "", "orrery program to use (default: built from this repository)")
	flag.IntVar(&o.servers, "servers", 1, "servers of the environment that is made")
	flag.IntVar(&o.agents, "agents", 1, "agents of the environment that is made; many cases need two nodes")
	flag.IntVar(&o.procs, "procs", 4, "cases that run at a time, as far as they may")
	flag.StringVar(&o.cache, "cache", cmp.Or(os.Getenv("ORRERY_CACHE_DIR"), "/var/cache/orrery"), "the builders' cache")
	flag.StringVar(&o.dir, "dir", "/var/tmp", "folder on a disk for state and logs of this run")
	flag.StringVar(&o.results, "results", "auto", `file to put the results into; "auto" is results/PLUGIN.json here, "" none`)
	flag.BoolVar(&o.failed, "failed", false, "of those, only what failed according to the results")
	flag.BoolVar(&o.rest, "rest", false, "of those, only what the last run of them did not come to")
	flag.BoolVar(&o.keep, "keep", false, "leave the environment and the logs")
	flag.BoolVar(&o.render, "render", false, "only write docs/reference/conformance.md from the results")
	flag.DurationVar(&o.timeout, "timeout", 2*time.Hour, "of the tests together")
	flag.Parse()
	if flag.NArg() > 0 || !slices.Contains([]string{"ptp", "cilium"}, o.plugin) || sets[o.set] == "" || o.procs < 1 {
		flag.Usage()
		os.Exit(2)
	}
	for _, pattern := range []string{o.focus, o.skip} {
		if _, err := regexp.Compile(pattern); err != nil {
			fmt.Fprintln(os.Stderr, "conformance:", err)
			os.Exit(2)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch err := run(ctx, o, os.Stdout, os.Stderr); {
	case errors.Is(err, errFailed):
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(3)
	}
}

// pattern selects cases by name.
func (o options) pattern() string { return cmp.Or(o.names, o.focus, sets[o.set]) }

// again narrows the choice to what failed before (-failed) or was not run (-rest), which is
// also what a run that ended early saw fail without learning of what.
func (o *options) again(before *results) error {
	choice := regexp.MustCompile(o.pattern())
	var names []string
	for _, c := range before.cases() {
		wanted := o.failed && c.State == stateFailed || o.rest && (c.State == stateNotRun || c.State == stateFailed && c.Reason == "")
		if wanted && choice.MatchString(c.Name) {
			names = append(names, regexp.QuoteMeta(c.Name))
		}
	}
	if len(names) == 0 {
		return fmt.Errorf("there is none such, says %s", o.results)
	}
	o.names = "(" + strings.Join(names, "|") + ")$"
	return nil
}

// errFailed says that cases failed, not that they could not be run.
var errFailed = errors.New("cases failed")

func run(ctx context.Context, o options, out, progress io.Writer) (err error) {
	repo, err := root(ctx)
	if err != nil {
		return err
	}
	here := filepath.Join(repo, "test", "conformance")
	if o.results == "auto" {
		o.results = filepath.Join(here, "results", o.plugin+".json")
	}
	if o.render {
		return render(repo)
	}
	if os.Geteuid() != 0 {
		return errors.New("the native driver needs root")
	}
	before, err := readResults(o.results)
	if err != nil {
		return err
	}
	if o.failed || o.rest {
		if err := o.again(before); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp(o.dir, "orrery-conformance-")
	if err != nil {
		return err
	}
	r := &runner{options: o, repo: repo, dir: dir, progress: progress, before: before}
	defer func() {
		err = errors.Join(err, r.down())
		if o.keep || err != nil {
			r.say("logs are in %s", dir)
			return
		}
		err = os.RemoveAll(dir)
	}()
	result, err := r.all(ctx)
	if err != nil {
		return err
	}
	if err := result.print(out); err != nil {
		return err
	}
	if o.results == filepath.Join(here, "results", o.plugin+".json") {
		if err := render(repo); err != nil {
			return err
		}
	}
	if n := result.count(stateFailed); n > 0 {
		return fmt.Errorf("%d of %d %w", n, len(result.Cases), errFailed)
	}
	return nil
}

// runner does one run.
type runner struct {
	options
	repo, dir string
	progress  io.Writer
	before    *results // of earlier runs; nil without
	made      bool     // the environment is ours
	programs  programs
}

// all builds, starts, loads and tests.
func (r *runner) all(ctx context.Context) (*results, error) {
	if r.cli == "" {
		r.say("building orrery")
		r.cli = filepath.Join(r.dir, "orrery")
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", r.cli, "./cmd/orrery")
		cmd.Dir = r.repo
		if msg, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build orrery: %w\n%s", err, msg)
		}
	}
	if err := r.build(ctx); err != nil {
		return nil, err
	}
	images, err := r.standIns(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.up(ctx); err != nil {
		return nil, err
	}
	r.say("loading them into the mirror of %s", r.env)
	folder, err := r.load(ctx, images)
	if err != nil {
		return nil, err
	}
	return r.test(ctx, images, folder)
}

func (r *runner) say(format string, a ...any) {
	fmt.Fprintf(r.progress, "%s %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, a...))
}

// root is the folder of the main module.
func root(ctx context.Context) (string, error) {
	mod, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	return filepath.Dir(string(mod)), nil
}
