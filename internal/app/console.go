package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/console"
	"github.com/orrery-dev/orrery/internal/dashboard"
	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/flow"
)

func newConsole(o *options) *cobra.Command {
	var opts consoleOptions
	c := &cobra.Command{
		Use:   "console",
		Short: "A page in the browser: topology, service map, dashboards, logs, traces, checks",
		Long: `Serve a page on this machine that shows the environment as it is: where every pod runs, the
components, who speaks to whom, dashboards, logs, traces and checks. It is live, needs no
network beyond this machine, and goes on when the cluster goes away and comes back.

The address that is printed has a name of its own below localhost, so that what the browser
keeps goes to no other port of this machine, and carries a token; whoever has it can see
everything and run the checks. It ends with Ctrl-C.`,
		Example: `  orrery console
  orrery console --port 8080 --links`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return runConsole(c.Context(), o, opts)
		},
	}
	c.Flags().IntVar(&opts.port, "port", 0, "port of 127.0.0.1 and ::1 to listen on (default: a free one)")
	c.Flags().BoolVar(&opts.links, "links", false, "make Grafana, Prometheus, Alertmanager and NATS reachable on 127.0.0.1 too, without a token, and link to them")
	return c
}

type consoleOptions struct {
	port  int
	links bool
}

func runConsole(ctx context.Context, o *options, opts consoleOptions) error {
	if opts.port < 0 || opts.port > 65535 {
		return failure.Usagef("--port must be from 0 to 65535, got %d", opts.port)
	}
	e, err := o.existing()
	if err != nil {
		return err
	}
	boards, checks, missing := forConsole(e)
	if missing != nil {
		// Without a catalogue there is still a topology, and logs and traces.
		fmt.Fprintf(o.err, "orrery: no dashboards and no checks: %v\n", missing)
	}
	listeners, err := console.Listen(opts.port)
	if err != nil {
		return fmt.Errorf("%w; choose another with --port", err)
	}
	for _, l := range listeners {
		defer l.Close()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	view := newViewer(ctx, e, o.logger(), opts.links)
	defer view.close()
	defer cancel() // before view.close
	c, err := console.New(ctx, console.Options{
		Environment: e.Spec.Name, Look: view.look, API: view, Dashboards: boards, Verify: checks.run, Earlier: checks.earlier, Flows: flowsForConsole(e),
		GitOps: func(ctx context.Context) (console.GitOps, error) { return gitOpsForConsole(ctx, e) },
		Token:  rand.Text(), Address: listeners[0].Addr().String(), Log: o.logger(),
	})
	if err != nil {
		return err
	}
	defer c.Close()
	defer cancel() // before c.Close
	// A cluster that does not answer must not keep the page from opening.
	ready, done := context.WithTimeout(ctx, 2*time.Second)
	c.Ready(ready)
	done()
	if o.json() {
		err = printJSON(o.out, opened{Name: consoleName, URL: c.URL()})
	} else {
		_, err = fmt.Fprintf(o.out, "%s\n", c.URL())
		fmt.Fprintln(o.err, "until Ctrl-C")
	}
	if err != nil {
		return err
	}
	return serve(ctx, &http.Server{Handler: c, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}, listeners)
}

// serve ends with ctx, or when a listener does.
func serve(ctx context.Context, server *http.Server, listeners []net.Listener) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		g.Go(func() error { return server.Serve(l) })
	}
	g.Go(func() error {
		<-ctx.Done()
		bounded, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer stop()
		if server.Shutdown(bounded) != nil {
			_ = server.Close()
		}
		return nil
	})
	if err := g.Wait(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("console: %w", err)
	}
	return nil
}

// consoleChecks are the checks as the console has them; nothing without a catalogue.
type consoleChecks struct {
	run     func(context.Context, func(console.Check)) error
	earlier func() []console.Check
}

// forConsole is what the console has from the catalogue.
func forConsole(e *environment.Environment) ([]dashboard.Dashboard, consoleChecks, error) {
	p, err := e.Platform(environment.Selection{})
	if err != nil {
		return nil, consoleChecks{}, err
	}
	boards, err := p.Dashboards()
	if err != nil {
		return nil, consoleChecks{}, err
	}
	run := func(ctx context.Context, report func(console.Check)) error { return verifyForConsole(ctx, p, report) }
	earlier := func() (checks []console.Check) {
		for _, r := range p.LastResults() {
			checks = append(checks, consoleCheck(r.CheckResult, r.At))
		}
		return checks
	}
	return boards, consoleChecks{run, earlier}, nil
}

func consoleCheck(r environment.CheckResult, at time.Time) console.Check {
	return console.Check{Component: r.Component, Name: r.Name, State: string(r.State), Detail: r.Detail, Seconds: r.Seconds, At: at}
}

// flowsForConsole are those of which a map is made.
func flowsForConsole(e *environment.Environment) func(context.Context, time.Time, func(flow.Flow), func(string, error)) error {
	return func(ctx context.Context, since time.Time, give func(flow.Flow), trouble func(string, error)) error {
		return e.Flows(trouble).Follow(ctx, flow.Query{Since: since, Types: flow.MapTypes}, func(f flow.Flow) error {
			give(f)
			return nil
		})
	}
}

// verifyForConsole runs all checks and tells of each when it begins and when it has ended.
func verifyForConsole(ctx context.Context, p *environment.Platform, report func(console.Check)) error {
	if err := p.LearnImages(ctx); err != nil {
		return err
	}
	conditions, err := p.Conditions(ctx, p.CheckNames())
	if err != nil {
		return err
	}
	begun := func(c check.Condition) {
		report(console.Check{Component: c.Component, Name: c.Name, State: string(check.Running)})
	}
	p.Await(ctx, conditions, begun, func(r environment.CheckResult) { report(consoleCheck(r, time.Time{})) })
	return ctx.Err()
}
