package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/profile"
	"github.com/orrery-dev/orrery/internal/supply"
	"github.com/orrery-dev/orrery/internal/ui"
)

// undoTimeout bounds the clean-up after a failure or Ctrl-C.
const undoTimeout = 3 * time.Minute

const adoptUsage = "with driver: existing, take over objects that others manage; 'orrery down' then leaves them in the cluster"

type upOptions struct {
	*options
	noInstall, retain, dryRun, skipVerify, deleteData bool
	clusterOnly                                       bool // deploy nothing
	from                                              bundleFlags
	require                                           []string
	profile                                           string
	timeout                                           time.Duration
	adopt                                             bool
}

func newUp(o *options) *cobra.Command {
	u := &upOptions{options: o}
	c := &cobra.Command{
		Use:   "up",
		Short: "Build, start, deploy and verify the environment",
		Long: `Bring the environment to what orrery.yaml says (without a file: 3 servers, 2 agents,
the components of profile platform) and prove that it works.

What is there already is kept: a second run changes nothing. Compilation, node start
and deployment overlap; the first run compiles Kubernetes from source, later ones take
it from ` + "`/var/cache/orrery`" + `. What is waited for is built first: the nodes, then the core (DNS,
storage, NATS), then the rest. A first run says when each is expected, and when it is there.

--profile says how much of the platform there is: core (nodes, network, DNS, storage, NATS),
platform (core, and certificates that renew, observability, pulse) or full (everything). An environment
keeps its profile until another one is asked for; then only what differs is deployed, or leaves
the cluster. What was deployed by name beside the profile stays.

If making a new environment fails, what was made is removed again (--retain keeps it)
after an archive of logs and events was written to the current folder. A platform that
stands but fails verification is kept, so that it can be looked at.`,
		Example: `  orrery up
  orrery up --dry-run           # the plan, nothing is changed
  orrery up --profile core      # without observability: less to compile and to run
  orrery up --bundle orrery-linux-amd64.orrery --key orrery-linux-amd64.orrery.pub
  orrery up --env ci -o json    # events, one per line, then a summary`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return u.run(c.Context()) },
	}
	f := c.Flags()
	f.BoolVar(&u.noInstall, "no-install", false, "do not install operating system packages; list what is missing and stop")
	f.BoolVar(&u.retain, "retain", false, "keep what was made when making a new environment fails")
	f.BoolVar(&u.dryRun, "dry-run", false, "print the plan and stop")
	u.from.add(c)
	f.StringArrayVar(&u.require, "require", nil, "component or image that must not be skipped for want of an image (repeatable)")
	f.StringVar(&u.profile, "profile", "", "how much of the platform: core, platform or full"+
		" (default: what the environment has, or platform)")
	_ = c.RegisterFlagCompletionFunc("profile", cobra.FixedCompletions([]string{
		profile.Core + "\tnodes, network, DNS, storage, NATS",
		profile.Platform + "\tcore, and certificates that renew, observability, pulse",
		profile.Full + "\teverything",
	}, cobra.ShellCompDirectiveNoFileComp))
	timeoutFlag(c, &u.timeout)
	f.BoolVar(&u.adopt, "adopt", false, adoptUsage)
	f.BoolVar(&u.deleteData, "delete-data", false, "remove components that hold data and are no longer wanted, and lose it")
	f.BoolVar(&u.skipVerify, "skip-verify", false, "stop when everything is deployed and ready")
	return c
}

func (u *upOptions) run(ctx context.Context) error {
	sink := u.renderer()
	defer sink.Close()
	clock := &phaseClock{start: time.Now(), Sink: sink, renderer: sink}
	request := u.change(environment.VerbUp, clock)
	request.Timeout = u.timeout
	request.Adopt, request.DeleteData = u.adopt, u.deleteData
	request.Profile = u.profile
	if u.dryRun {
		request.Verb = ""
	}
	if u.from.file != "" || u.from.key != "" {
		location, release, err := u.useBundle(ctx, request)
		if err != nil {
			return err
		}
		defer release()
		request.Bundle = location
	}
	e, err := environment.Open(ctx, request)
	if err != nil {
		return err
	}
	defer e.Close()
	clock.flag = e.Flag()
	if e.NetworkReason != "" && !e.Exists {
		clock.Emit(ui.Event{Type: ui.TypeWarning, Message: "network: " + e.NetworkReason})
	}
	p, err := e.Platform(environment.Selection{ClusterOnly: u.clusterOnly, Prune: !u.clusterOnly, Require: u.require})
	if err != nil {
		return errors.Join(err, e.DiscardUnmade(ctx))
	}
	planned, err := p.Plan(ctx, u.skipVerify)
	if err != nil {
		return errors.Join(err, e.DiscardUnmade(ctx))
	}
	if u.dryRun {
		return u.printPlan(p, planned)
	}
	if err := p.Refuse(planned.Plan); err != nil {
		return errors.Join(err, e.DiscardUnmade(ctx))
	}
	p.WarnSkipped(planned.Plan)
	p.TellProfile(planned)
	if planned.UpToDate() {
		if err := errors.Join(p.RefuseDrift(ctx), p.KeepSkipped(planned.Plan)); err != nil {
			return err
		}
		sink.Close()
		return u.summarize(p, clock, p.StatusOf(ctx, planned), true)
	}
	if stands, err := p.Apply(ctx, planned, !u.noInstall); err != nil {
		return u.failed(e, clock, planned.Fresh() && !stands, err)
	}
	sink.Close()
	st, err := p.Status(ctx)
	if err != nil {
		return err
	}
	return u.summarize(p, clock, st, false)
}

// failed says what can be done, and undoes what was only half made.
func (u *upOptions) failed(e *environment.Environment, clock *phaseClock, undo bool, cause error) error {
	err := u.undo(e, clock, undo, cause)
	clock.Close()
	if u.json() {
		_ = printJSON(u.out, map[string]any{"type": ui.TypeSummary, "error": err.Error(), "seconds": clock.seconds()})
	}
	return err
}

func (u *upOptions) undo(e *environment.Environment, sink ui.Sink, undo bool, cause error) error {
	ctx, cancel := context.WithTimeout(context.Background(), undoTimeout)
	defer cancel()
	again := func(cause, err error) error {
		if err == nil && errors.Is(cause, context.Canceled) {
			return fmt.Errorf("%w\nnothing of it is left; to try again: orrery up%s", cause, e.Flag())
		}
		return errors.Join(cause, err)
	}
	if undo && e.Untouched() { // refused before anything was made
		return again(cause, e.DiscardUnmade(ctx))
	}
	if !undo || u.retain {
		return fmt.Errorf("%w\nlook at it: orrery status%s · orrery support%s · try again: orrery up%s", cause, e.Flag(), e.Flag(), e.Flag())
	}
	if !errors.Is(cause, context.Canceled) {
		archive := e.SupportFile()
		if err := e.WriteSupport(ctx, archive); err != nil {
			cause = fmt.Errorf("%w\nlogs and events could not be kept: %w", cause, err)
		} else {
			cause = fmt.Errorf("%w\nlogs and events were kept in %s", cause, archive)
		}
	}
	sink.Emit(ui.Event{Type: ui.TypeNotice, Phase: "teardown", Message: "removing what was made (--retain would keep it)"})
	leaks, err := e.Remove(ctx)
	if len(leaks) > 0 {
		err = errors.Join(err, fmt.Errorf("left behind: %s", strings.Join(leaks, "; ")))
	}
	return again(cause, err)
}

func (u *upOptions) printPlan(p *environment.Platform, planned environment.Planned) error {
	if u.json() {
		return printJSON(u.out, planned.Plan)
	}
	text := planned.String()
	if line := p.LeavesOut(); line != "" {
		text += line + "\n"
	}
	_, err := io.WriteString(u.out, text)
	return err
}

// useBundle imports the bundle that up was given, and has all else come from it. Until the
// environment's state names the bundle, only what is released at last keeps it from being
// pruned.
func (u *upOptions) useBundle(ctx context.Context, r environment.Request) (*supply.Location, func(), error) {
	if u.dryRun {
		return u.previewBundle(r, u.from)
	}
	what, err := u.namedBundle(r, u.from)
	if err != nil {
		return nil, nil, err
	}
	for {
		imported, err := what.Run(ctx, func(do func() error) error { return stepOf(r.Sink, "bundle/import", do) })
		if err != nil {
			return nil, nil, err
		}
		release, err := bundle.Hold(ctx, r.CacheDir, imported.Digest)
		if errors.Is(err, bundle.ErrNotImported) && ctx.Err() == nil {
			continue // pruned in the moment between
		}
		if err != nil {
			return nil, nil, err
		}
		return supply.InBundle(r.CacheDir, imported.Digest), release, nil
	}
}

// summary is the last line of `up -o json`; its form is a contract.
type summary struct {
	Type        ui.Type            `json:"type"`
	Environment string             `json:"environment"`
	Changed     bool               `json:"changed"`
	Seconds     map[string]float64 `json:"seconds"`
	Status      environment.Status `json:"status"`
	Verify      *report            `json:"verify,omitempty"`
}

func (u *upOptions) summarize(p *environment.Platform, clock *phaseClock, st environment.Status, nothing bool) error {
	sum := summary{Type: ui.TypeSummary, Environment: p.Spec.Name, Changed: !nothing, Seconds: clock.seconds(), Status: st}
	if results := p.Results(); len(results) > 0 {
		r := reportOf(results)
		sum.Verify = &r
	}
	if u.output == "json" {
		return printJSON(u.out, sum)
	}
	return printSummary(u.out, p, sum, clock.compiled)
}

func printSummary(w io.Writer, p *environment.Platform, sum summary, compiled bool) error {
	b := &strings.Builder{}
	st := sum.Status
	if !sum.Changed {
		fmt.Fprintf(b, "Environment %q is up to date: nothing to do (%.2f s).\n", sum.Environment, sum.Seconds["total"])
		for _, c := range st.Components {
			if c.State == environment.ComponentSkipped {
				fmt.Fprintf(b, "Skipped: %s: %s\n", c.Name, c.Reason)
			}
		}
		for _, n := range st.Nodes {
			if n.Reason != "" {
				fmt.Fprintf(b, "warning: node %s: %s\n", n.Name, n.Reason)
			}
		}
		for _, line := range st.Warnings {
			fmt.Fprintf(b, "warning: %s\n", line)
		}
		fmt.Fprintf(b, "Prove it again: orrery verify%s\n", p.Flag())
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
	rehearse := ""
	if p.NodeFaults {
		rehearse = "  orrery node" + p.Flag() + " kill server1          rehearse a power loss\n"
	}
	fmt.Fprintf(b, `
Next:
  orrery kubectl%[1]s get pods -A        talk to the cluster
  orrery kubeconfig%[1]s --merge         … with your own kubectl
%[2]s  orrery verify%[1]s                     write and read real data everywhere
  orrery down%[1]s                       remove every trace
`, p.Flag(), rehearse)
	if compiled {
		fmt.Fprintln(b, "  go clean -modcache                empty the module cache of Go:"+
			" gigabytes of sources, fetched again when needed")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// phaseClock notes when the milestones of the summary were reached, and says what a person can do
// from then on.
type phaseClock struct {
	ui.Sink
	renderer ui.Renderer
	start    time.Time
	flag     string // of commands for the person

	mu                     sync.Mutex
	build, nodes, platform time.Duration
	compiled               bool
}

// Close ends the view.
func (c *phaseClock) Close() { _ = c.renderer.Close() }

// Emit passes e on. Times are since the start of the verb.
func (c *phaseClock) Emit(e ui.Event) {
	if e.Type == ui.TypeStep && (e.State == ui.StateDone || e.State == ui.StateCached) {
		c.mu.Lock()
		since := time.Since(c.start)
		switch {
		case e.Phase == plan.PhaseBuild:
			c.build = since
			c.compiled = c.compiled || e.State == ui.StateDone && strings.HasPrefix(e.Step, plan.KindBuild.ID(""))
		case e.Step == string(plan.KindNodes):
			c.nodes = since
		case e.Phase == plan.PhaseDeploy:
			c.platform = since
		}
		c.mu.Unlock()
	}
	if e.Type == ui.TypeMilestone && e.Step == plan.MilestoneNodes && e.State == ui.StateDone {
		e.Message = fmt.Sprintf("the cluster is up, 'orrery kubectl%s' works: %s", c.flag, e.Message)
	}
	c.Sink.Emit(e)
}

func (c *phaseClock) seconds() map[string]float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return map[string]float64{
		"build":         environment.Seconds(c.build),
		"nodesReady":    environment.Seconds(c.nodes),
		"platformReady": environment.Seconds(c.platform),
		"total":         environment.Seconds(time.Since(c.start))}
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
