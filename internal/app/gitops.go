package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/console"
	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/gitops"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newGitOps(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "gitops",
		Short: "Have Argo CD apply the platform: enable, push, status, diff, disable",
		Long: `By default Orrery applies the platform itself, and nobody looks after it until the next 'orrery up'.
Handed over, Argo CD applies it: what 'orrery render' prints is pushed as OCI artifacts into the
environment's mirror, or as commits to a git server in the cluster, which Argo CD watches. What somebody changes by hand it changes back; what
does not get through leaves what ran before, and says why.

One applies at a time, component by component. Handing over and taking back change who owns which
fields, and restart nothing. Argo CD may touch the objects that were pushed, each by its name, and
nothing else.`,
		Example: `  orrery deploy argocd
  orrery gitops enable
  git revert HEAD && orrery gitops push   # what was there before is there again`,
	}
	c.AddCommand(newGitOpsEnable(o), newGitOpsPush(o), newGitOpsStatus(o), newGitOpsDiff(o), newGitOpsDisable(o))
	return c
}

func newGitOpsEnable(o *options) *cobra.Command {
	var timeout time.Duration
	var source string
	c := &cobra.Command{
		Use:   "enable",
		Short: "Hand the platform over to Argo CD",
		Long: `Push what the catalogue says, hand over each component that is deployed, and wait until Argo CD has
synced them all. No pod is restarted. Argo CD itself stays Orrery's to apply.

It may be repeated, and goes on where it was interrupted. Argo CD has to be deployed.

Argo CD reads artifacts in the environment's mirror (oci), or a git server in the cluster (git), which
gitops.source: git in orrery.yaml deploys. --source changes from one to the other; no pod is restarted.`,
		Example: `  orrery deploy argocd && orrery gitops enable
  orrery gitops enable --source git`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.gitOpsPush(c.Context(), "gitops enable", timeout, func(p *environment.Platform, ctx context.Context, timeout time.Duration) (environment.Pushed, error) {
				return p.EnableGitOps(ctx, source, timeout)
			})
		},
	}
	gitOpsTimeout(c, &timeout)
	c.Flags().StringVar(&source, "source", "", "what Argo CD reads: oci or git (default: what it reads already, or else gitops.source of orrery.yaml)")
	return c
}

func newGitOpsPush(o *options) *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "push",
		Short: "Give Argo CD what the catalogue says now, and wait until it runs",
		Long: `Render the catalogue as it is now, push what changed to where Argo CD reads, and wait until
Argo CD has synced it and all is healthy: component after component, in the order of their needs.

What cannot get better by waiting (an image that is not there, a pod that crashes, an object that
the cluster refuses) ends it with exit status 1 and the reason. What ran before goes on running, and
components that need the broken one are left as they are. The way back is to push what was there
before: 'git revert', then 'orrery gitops push'.

Nothing secret is pushed: manifests with a private key in them, or with a value of one of the
cluster's Secrets, are refused. Images have to be in the mirror: 'orrery up' builds and pushes them.`,
		Example: `  orrery gitops diff
  orrery gitops push`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.gitOpsPush(c.Context(), "gitops push", timeout, (*environment.Platform).PushGitOps)
		},
	}
	gitOpsTimeout(c, &timeout)
	return c
}

func gitOpsTimeout(c *cobra.Command, timeout *time.Duration) {
	c.Flags().DurationVar(timeout, "timeout", 5*time.Minute, "how long to wait until all is synced and healthy")
}

// gitOpsPlatform opens an environment with its catalogue for a verb that changes it. The caller closes both.
func (o *options) gitOpsPlatform(verb string, sink ui.Sink) (*environment.Platform, error) {
	e, err := environment.Existing(o.change(verb, sink))
	if err != nil {
		return nil, err
	}
	p, err := e.Platform(environment.Selection{})
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return p, nil
}

func (o *options) gitOpsPush(ctx context.Context, verb string, timeout time.Duration,
	push func(*environment.Platform, context.Context, time.Duration) (environment.Pushed, error),
) error {
	sink := o.renderer()
	defer sink.Close()
	p, err := o.gitOpsPlatform(verb, sink)
	if err != nil {
		return err
	}
	defer p.Close()
	pushed, err := push(p, ctx, timeout)
	if err != nil {
		return err
	}
	changed := "nothing changed"
	if len(pushed.Changed) > 0 {
		changed = "changed: " + strings.Join(pushed.Changed, ", ")
	}
	message := fmt.Sprintf("Argo CD applies %d components, all synced and healthy after %.1f s; revision %s, %s",
		len(pushed.Components), pushed.Seconds, gitops.Revision(pushed.Revision), changed)
	if len(pushed.Removed) > 0 {
		message += "; removed: " + strings.Join(pushed.Removed, ", ")
	}
	sink.Emit(ui.Event{Type: ui.TypeSummary, Message: message, Data: pushed})
	return nil
}

func newGitOpsStatus(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Who applies the platform, and how each Application is",
		Long: `Who applies the platform. When it is Argo CD: each Application with the revision that it is to have,
whether that is what runs (SYNC), how its objects are (HEALTH), and why it is not both Synced and
Healthy, as pods and events have it. And who changed by hand what Argo CD applies, the last ten, by the
audit logs of the API servers as far back as these go; Argo CD changes it back within seconds.

Exit status 1 when one is not.`,
		Example: `  orrery gitops status
  orrery gitops status -o json | jq -r '.applications[] | select(.reason) | .component + ": " + .reason'`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return gitOpsStatus(c.Context(), o) },
	}
}

func gitOpsStatus(ctx context.Context, o *options) error {
	e, err := o.existing()
	if err != nil {
		return err
	}
	g, err := e.GitOps(ctx)
	if err != nil {
		return err
	}
	switch {
	case o.json():
		err = printJSON(o.out, g)
	case g.Applier == "orrery":
		_, err = fmt.Fprintf(o.out, "Orrery applies this environment: 'orrery gitops enable%s' hands it over to Argo CD\n", e.Flag())
	default:
		rows := [][]string{}
		for _, s := range g.Applications {
			rows = append(rows, []string{s.Component, gitops.Revision(s.Revision), s.Sync, s.Health, s.Reason})
		}
		_, err = fmt.Fprintf(o.out, "Argo CD applies this environment; pushed: %s (%s)\n\n", gitops.Revision(g.Revision), g.Source)
		err = errors.Join(err, ui.Table(o.out, []string{"APPLICATION", "REVISION", "SYNC", "HEALTH", "REASON"}, rows))
		rows = nil
		for _, c := range g.ByHand {
			rows = append(rows, []string{c.At.Local().Format(time.DateTime), c.Who, c.With, c.Verb + " " + c.Object})
		}
		if len(rows) > 0 {
			_, e := fmt.Fprintln(o.out)
			err = errors.Join(err, e, ui.Table(o.out, []string{"CHANGED BY HAND", "WHO", "WITH", "WHAT"}, rows))
		}
	}
	if err != nil {
		return err
	}
	var bad []string
	for _, s := range g.Applications {
		if !s.Good() {
			bad = append(bad, s.Component)
		}
	}
	switch {
	case g.Problem != "":
		return errors.New(g.Problem)
	case len(bad) > 0:
		return fmt.Errorf("%d of %d Applications are not synced and healthy: %s", len(bad), len(g.Applications), strings.Join(bad, ", "))
	}
	return nil
}

func newGitOpsDiff(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "diff",
		Short: "What a push would change (exit status 1 when it would change something)",
		Long: `Compare what the catalogue says now with what was pushed last, object by object. What somebody changed in
the cluster by hand is not part of it: 'orrery gitops status' says so until Argo CD has changed it back.`,
		Example: "  orrery gitops diff && echo 'a push would change nothing'",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return gitOpsDiff(c.Context(), o) },
	}
}

// gitOpsChange is what `gitops diff -o json` prints for each object; its form is a contract.
type gitOpsChange struct {
	Component string `json:"component"`
	kube.Change
}

func gitOpsDiff(ctx context.Context, o *options) error {
	e, err := o.existing()
	if err != nil {
		return err
	}
	p, err := e.Platform(environment.Selection{})
	if err != nil {
		return err
	}
	changes, err := p.GitOpsDiff(ctx)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(changes)) {
		for _, ch := range changes[name] {
			if o.json() {
				err = printJSON(o.out, gitOpsChange{name, ch})
			} else {
				_, err = fmt.Fprintf(o.out, "# %s: %s %s\n%s\n", name, ch.Action, ch.Object, ch.Diff)
			}
			if err != nil {
				return err
			}
		}
	}
	if len(changes) > 0 {
		return exitError(exitFailed)
	}
	return nil
}

// gitOpsDisabled is what `gitops disable -o json` prints; its form is a contract.
type gitOpsDisabled struct {
	Components []string `json:"components"`
}

func newGitOpsDisable(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "disable",
		Short: "Take the platform back: Orrery applies it again",
		Long: `Take its rights from Argo CD, remove the Applications without anything that they applied, and give
the fields back to Orrery. No pod is restarted, and Argo CD goes on running with nothing to do.

What runs stays as it is. The next 'orrery up' compares it with the catalogue, and removes what Argo CD
was told of meanwhile and the catalogue no longer has. It may be repeated.`,
		Example: "  orrery gitops disable && orrery up",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			sink := o.renderer()
			defer sink.Close()
			p, err := o.gitOpsPlatform("gitops disable", sink)
			if err != nil {
				return err
			}
			defer p.Close()
			components, err := p.DisableGitOps(c.Context())
			if err != nil {
				return err
			}
			message := fmt.Sprintf("Orrery applies %d components again: 'orrery up%s' compares them with the catalogue", len(components), p.Flag())
			if len(components) == 0 {
				message = "nothing was handed over: Orrery applies this environment"
			}
			sink.Emit(ui.Event{Type: ui.TypeSummary, Message: message, Data: gitOpsDisabled{append([]string{}, components...)}})
			return nil
		},
	}
}

// gitOpsForConsole is what [gitOpsStatus] prints, as the console has it.
func gitOpsForConsole(ctx context.Context, e *environment.Environment) (console.GitOps, error) {
	g, err := e.GitOps(ctx)
	if err != nil {
		return console.GitOps{}, err
	}
	c := console.GitOps{HandedOver: g.Applier == kube.ApplierArgoCD, Revision: gitops.Revision(g.Revision), Problem: g.Problem}
	for _, s := range g.Applications {
		state := console.Starting
		switch {
		case s.Good():
			state = console.Good
		case s.Hopeless || s.Failed():
			state = console.Failing
		}
		c.Applications = append(c.Applications, console.Application{
			Name: s.Component, Revision: gitops.Revision(s.Revision), Sync: s.Sync, Health: s.Health, Reason: s.Reason, State: state,
		})
	}
	for _, b := range g.ByHand {
		c.ByHand = append(c.ByHand, console.ByHand{At: b.At, Who: b.Who, With: b.With, What: b.Verb + " " + b.Object})
	}
	return c, nil
}
