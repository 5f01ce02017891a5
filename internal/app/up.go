package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/ui"
)

// undoTimeout bounds the clean-up after a failure or Ctrl-C.
const undoTimeout = 3 * time.Minute

type upOptions struct {
	*options
	noInstall, retain, dryRun, skipVerify bool
	clusterOnly                           bool // deploy nothing
	bundleFile, bundleKey                 string
	release                               func() // lets the bundle go
	require                               []string
}

func newUp(o *options) *cobra.Command {
	u := &upOptions{options: o}
	c := &cobra.Command{
		Use:   "up",
		Short: "Build, start, deploy and verify the environment",
		Long: `Bring the environment to what orrery.yaml says (without a file: 3 servers, 2 agents,
all components) and prove that it works.

What is there already is kept: a second run changes nothing. Compilation, node start
and deployment overlap; the first run compiles Kubernetes from source, later ones take
it from ` + "`/var/cache/orrery`" + `.

If making a new environment fails, what was made is removed again (--retain keeps it)
after an archive of logs and events was written to the current folder. A platform that
stands but fails verification is kept, so that it can be looked at.`,
		Example: `  orrery up
  orrery up --dry-run           # the plan, nothing is changed
  orrery up --bundle orrery-linux-amd64.orrery --key orrery-linux-amd64.orrery.pub
  orrery up --env ci -o json    # events, one per line, then a summary`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return u.run(c.Context()) },
	}
	f := c.Flags()
	f.BoolVar(&u.noInstall, "no-install", false, "do not install operating system packages; list what is missing and stop")
	f.BoolVar(&u.retain, "retain", false, "keep what was made when making a new environment fails")
	f.BoolVar(&u.dryRun, "dry-run", false, "print the plan and stop")
	f.StringVar(&u.bundleFile, "bundle", "", "take catalogue, programs and images from this file of 'orrery bundle create': nothing is compiled")
	f.StringVar(&u.bundleKey, "key", "", "public key (PEM) that the bundle must be signed by, trusted this once")
	f.StringArrayVar(&u.require, "require", nil, "component or image that must not be skipped for want of an image (repeatable)")
	f.BoolVar(&u.skipVerify, "skip-verify", false, "stop when everything is deployed and ready")
	return c
}

func (u *upOptions) run(ctx context.Context) error {
	start := time.Now()
	sink := u.renderer()
	defer sink.Close()
	clock := &phaseClock{start: start, Sink: sink}
	if u.bundleKey != "" && u.bundleFile == "" {
		return usagef("--key is about a bundle: name it with --bundle FILE")
	}
	if u.bundleFile != "" {
		u.release = func() {}
		defer func() { u.release() }()
		if err := u.useBundle(ctx, clock); err != nil {
			return err
		}
	}
	s, err := u.open(ctx, clock)
	if err != nil {
		return err
	}
	if s.networkReason != "" && !s.exists {
		clock.Emit(ui.Event{Type: ui.TypeWarning, Message: "network: " + s.networkReason})
	}
	if u.dryRun {
		return u.printPlan(ctx, s)
	}
	if err := s.lock("up"); err != nil {
		return err
	}
	defer s.close()
	p, obs, pl, err := u.plan(ctx, s)
	if err != nil {
		return err
	}
	if err := p.refuseSkips(pl); err != nil {
		return err
	}
	p.warnSkipped(pl)
	if obs.Phase == driver.PhaseRunning && toDo(pl) == 0 {
		if err := p.refuseAllDrift(ctx); err != nil {
			return err
		}
		if err := p.keepSkipped(pl.Skipped()); err != nil {
			return err
		}
		sink.Close()
		return u.summarize(p, clock, p.statusOf(ctx, obs, p.cube, p.census), true)
	}
	// Nothing of this environment exists outside its state folder until here.
	fresh := obs.Phase == driver.PhaseAbsent
	if stands, err := u.apply(ctx, p, pl, obs); err != nil {
		err = u.failed(p, sink, fresh && !stands, err)
		sink.Close()
		if u.output == "json" {
			_ = printJSON(u.out, map[string]any{"type": ui.TypeSummary, "error": err.Error(), "seconds": clock.seconds()})
		}
		return err
	}
	sink.Close()
	st, err := p.status(ctx)
	if err != nil {
		return err
	}
	return u.summarize(p, clock, st, false)
}

// apply checks the lock and the host, keeps the state and runs the plan. stands: the platform is
// deployed, whatever its verification says.
func (u *upOptions) apply(ctx context.Context, p *platform, pl plan.Plan, obs driver.Observation) (stands bool, err error) {
	if err := p.refuseAllDrift(ctx); err != nil {
		return false, err
	}
	if err := p.refuseBuilding(p.toBuild(pl)); err != nil {
		return false, err
	}
	if err := installPackages(ctx, missingPackages(ctx, p.toBuild(pl)), !u.noInstall, p.sink); err != nil {
		return false, err
	}
	if obs.Phase != driver.PhaseRunning {
		if err := p.preflight(ctx); err != nil {
			return false, err
		}
	}
	if err := p.journal.Begin(driver.Effect{Kind: "directory", ID: p.stateDir}); err != nil {
		return false, err
	}
	if err := p.save(); err != nil {
		return false, err
	}
	if stands, err = p.run(ctx, pl); err != nil {
		return stands, err
	}
	return true, nil
}

// failed says what can be done, and undoes what was only half made.
func (u *upOptions) failed(p *platform, sink ui.Sink, undo bool, cause error) error {
	if _, ok := errors.AsType[refusedError](cause); ok && undo {
		return errors.Join(cause, p.discard())
	}
	if !undo || u.retain {
		return fmt.Errorf("%w\nlook at it: orrery status%s · orrery support%s · try again: orrery up%s", cause, p.envFlag(), p.envFlag(), p.envFlag())
	}
	ctx, cancel := context.WithTimeout(context.Background(), undoTimeout)
	defer cancel()
	if !errors.Is(cause, context.Canceled) {
		archive := fmt.Sprintf("orrery-support-%s-%s.tar.gz", p.spec.Name, time.Now().Format("20060102-150405"))
		if err := writeSupport(ctx, p.session, archive); err == nil {
			cause = fmt.Errorf("%w\nlogs and events were kept in %s", cause, archive)
		}
	}
	sink.Emit(ui.Event{Type: ui.TypeNotice, Phase: "teardown", Message: "removing what was made (--retain would keep it)"})
	leaks, err := p.remove(ctx)
	if len(leaks) > 0 {
		err = errors.Join(err, fmt.Errorf("left behind: %s", strings.Join(leaks, "; ")))
	}
	return errors.Join(cause, err)
}

// plan looks at the environment and says what is left to do.
func (u *upOptions) plan(ctx context.Context, s *session) (*platform, driver.Observation, plan.Plan, error) {
	p, err := s.platform(nil)
	if err != nil {
		return nil, driver.Observation{}, plan.Plan{}, err
	}
	if u.clusterOnly {
		p.components = nil
	}
	p.prune, p.require = !u.clusterOnly, u.require
	if err := p.checkRequired(); err != nil {
		return nil, driver.Observation{}, plan.Plan{}, err
	}
	obs, err := s.observe(ctx)
	if err != nil {
		return nil, obs, plan.Plan{}, err
	}
	pl, err := p.plan(ctx, obs, u.skipVerify || u.clusterOnly)
	return p, obs, pl, err
}

// toDo counts the pending steps that change something: verification does not.
func toDo(pl plan.Plan) int {
	n := 0
	for _, s := range pl.Steps {
		if !s.Done && s.Skip == "" && s.Kind != plan.KindVerify {
			n++
		}
	}
	return n
}

func (u *upOptions) printPlan(ctx context.Context, s *session) error {
	if err := s.connect(); err != nil {
		return err
	}
	_, _, pl, err := u.plan(ctx, s)
	if err != nil {
		return err
	}
	if u.output == "json" {
		return printJSON(u.out, pl)
	}
	_, err = io.WriteString(u.out, pl.String())
	return err
}

// summary is the last line of `up -o json`; its form is a contract.
type summary struct {
	Type        ui.Type            `json:"type"`
	Environment string             `json:"environment"`
	Changed     bool               `json:"changed"`
	Seconds     map[string]float64 `json:"seconds"`
	Status      status             `json:"status"`
	Verify      *report            `json:"verify,omitempty"`
}

func (u *upOptions) summarize(p *platform, clock *phaseClock, st status, nothing bool) error {
	sum := summary{Type: ui.TypeSummary, Environment: p.spec.Name, Changed: !nothing, Seconds: clock.seconds(), Status: st}
	if p.tally.any() {
		r := p.tally.sorted().report()
		sum.Verify = &r
	}
	if u.output == "json" {
		return printJSON(u.out, sum)
	}
	return printSummary(u.out, p, sum)
}

func printSummary(w io.Writer, p *platform, sum summary) error {
	b := &strings.Builder{}
	st := sum.Status
	if !sum.Changed {
		fmt.Fprintf(b, "Environment %q is up to date: nothing to do (%.2f s).\n", sum.Environment, sum.Seconds["total"])
		for _, c := range st.Components {
			if c.State == "skipped" {
				fmt.Fprintf(b, "Skipped: %s: %s\n", c.Name, c.Reason)
			}
		}
		fmt.Fprintf(b, "Prove it again: orrery verify%s\n", p.envFlag())
		_, err := io.WriteString(w, b.String())
		return err
	}
	fmt.Fprintln(b)
	_ = printStatus(b, st) // a builder takes all
	if v := sum.Verify; v != nil {
		fmt.Fprintf(b, "\nVerified: %d passed, %d failed, %d skipped\n", v.Passed, v.Failed, v.Skipped)
		for _, c := range v.Checks {
			if c.State != check.Succeeded {
				fmt.Fprintf(b, "  %s %s/%s: %s\n", c.State, c.Component, c.Name, c.Detail)
			}
		}
	}
	fmt.Fprintf(b, "\nTime: ")
	var parts []string
	for _, k := range []string{"build", "nodesReady", "platformReady", "total"} {
		if v, ok := sum.Seconds[k]; ok {
			parts = append(parts, fmt.Sprintf("%s %.1f s", k, v))
		}
	}
	fmt.Fprintln(b, strings.Join(parts, " · "))
	fmt.Fprintf(b, `
Next:
  orrery kubectl%[1]s get pods -A        talk to the cluster
  export KUBECONFIG=%[2]s
  orrery node%[1]s kill server1          rehearse a power loss
  orrery verify%[1]s                     write and read real data everywhere
  orrery down%[1]s                       remove every trace
`, p.envFlag(), filepath.Join(p.stateDir, "kubeconfig"))
	_, err := io.WriteString(w, b.String())
	return err
}

// phaseClock notes when the milestones of the summary were reached.
type phaseClock struct {
	ui.Sink
	start time.Time
	tally
	build, nodes, platform time.Duration
}

// Emit passes e on. Times are since the start of the verb.
func (c *phaseClock) Emit(e ui.Event) {
	if e.Type == ui.TypeStep && (e.State == ui.StateDone || e.State == ui.StateCached) {
		c.mu.Lock()
		since := time.Since(c.start)
		switch {
		case strings.HasPrefix(e.Step, "build/"), strings.HasPrefix(e.Step, "image/"):
			c.build = since
		case e.Step == "nodes":
			c.nodes = since
		case strings.HasPrefix(e.Step, "deploy/"):
			c.platform = since
		}
		c.mu.Unlock()
	}
	c.Sink.Emit(e)
}

func (c *phaseClock) seconds() map[string]float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return map[string]float64{"build": seconds(c.build), "nodesReady": seconds(c.nodes), "platformReady": seconds(c.platform), "total": seconds(time.Since(c.start))}
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
