package app

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/pinned"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newCluster(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "cluster",
		Short: "Only the Kubernetes cluster: create or delete it",
	}
	create := &upOptions{options: o, clusterOnly: true}
	cc := &cobra.Command{
		Use:   "create",
		Short: "Build and start the cluster, deploy nothing",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return create.run(c.Context()) },
	}
	cc.Flags().BoolVar(&create.noInstall, "no-install", false, "do not install operating system packages; list what is missing and stop")
	cc.Flags().BoolVar(&create.retain, "retain", false, "keep what was made when it fails")
	timeoutFlag(cc, &create.timeout)
	c.AddCommand(cc, &cobra.Command{
		Use:   "delete",
		Short: "Remove the environment (the same as 'orrery down')",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return runDown(c.Context(), o, false) },
	})
	return c
}

func newBootstrap(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "bootstrap",
		Short: "Deploy the base: namespaces, DNS, storage class",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return deployNamed(c.Context(), o, nil, false) },
	}
}

func newDeploy(o *options) *cobra.Command {
	var adopt bool
	c := &cobra.Command{
		Use:               "deploy COMPONENT...",
		Short:             "Deploy components and what they need",
		Example:           "  orrery deploy nats",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: o.completeComponents,
		RunE:              func(c *cobra.Command, args []string) error { return deployNamed(c.Context(), o, args, adopt) },
	}
	c.Flags().BoolVar(&adopt, "adopt", false, adoptUsage)
	return c
}

// deployNamed builds, pushes and deploys components on a running cluster: the named
// ones, or those that the overlay calls its bootstrap.
func deployNamed(ctx context.Context, o *options, names []string, adopt bool) error {
	sink := o.renderer()
	defer sink.Close()
	request := o.change("deploy", sink)
	request.Adopt = adopt
	e, err := environment.Existing(request)
	if err != nil {
		return err
	}
	defer e.Close()
	if names == nil {
		if names, err = bootstrapOf(e); err != nil {
			return err
		}
	}
	p, err := e.Platform(environment.Selection{Components: names})
	if err != nil {
		return err
	}
	planned, err := p.Plan(ctx, true)
	if err != nil {
		return err
	}
	if phase := planned.Observation.Phase; phase != driver.PhaseRunning {
		return fmt.Errorf("environment %q is %s: 'orrery start%s' first", e.Spec.Name, phase, e.Flag())
	}
	if err := errors.Join(p.RefuseDrift(ctx), p.Refuse(planned.Plan)); err != nil {
		return err
	}
	p.WarnSkipped(planned.Plan)
	if planned.UpToDate() && len(planned.Skipped()) == 0 {
		sink.Emit(ui.Event{Type: ui.TypeNotice, Phase: plan.PhaseDeploy, Message: "deployed already: nothing to do"})
		return nil
	}
	_, err = p.Run(ctx, planned.Plan) // notes what is skipped
	return err
}

// bootstrapOf are the components that the overlay calls its bootstrap.
func bootstrapOf(e *environment.Environment) ([]string, error) {
	c, err := e.Location.Catalog()
	if err != nil {
		return nil, err
	}
	names := slices.Clone(c.Overlays[e.Spec.Overlay].Bootstrap)
	if x := e.Spec.Existing; x != nil {
		names = slices.DeleteFunc(names, func(n string) bool { return slices.Contains(x.Provides, n) })
	}
	if len(names) == 0 {
		return nil, failure.Usagef("overlay %q names no bootstrap components: 'orrery deploy COMPONENT...' deploys some", e.Spec.Overlay)
	}
	return names, nil
}

func newRender(o *options) *cobra.Command {
	var overlay string
	c := &cobra.Command{
		Use:   "render [COMPONENT...]",
		Short: "Print the manifests as they are applied, Argo CD would sync them and diff shows them",
		Example: `  orrery render nats --overlay prod
  orrery render > platform.yaml`,
		ValidArgsFunction: o.completeComponents,
		RunE: func(c *cobra.Command, args []string) error {
			e, err := environment.Open(c.Context(), o.request(ui.Discard))
			if err != nil {
				return err
			}
			p, err := e.Platform(environment.Selection{Components: args, Overlay: overlay})
			if err != nil {
				return err
			}
			// Digests are shown where the images are built already.
			if err := p.LearnImages(c.Context()); err != nil {
				return err
			}
			for _, comp := range p.Components {
				if len(args) > 0 && !slices.Contains(args, comp.Name) {
					continue
				}
				set, err := p.Render(c.Context(), comp)
				if errors.Is(err, pinned.ErrNotReachable) && len(args) == 0 {
					fmt.Fprintf(o.err, "note: left out, since its files are not here: %v\n", err)
					continue
				}
				if err != nil {
					return err
				}
				text, err := kube.Manifest(set.Objects)
				if err != nil {
					return fmt.Errorf("print component %s: %w", comp.Name, err)
				}
				if _, err := o.out.Write(text); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&overlay, "overlay", "", "overlay of the catalogue (default: the environment's)")
	return c
}

func newDiff(o *options) *cobra.Command {
	return &cobra.Command{
		Use:               "diff [COMPONENT...]",
		Short:             "How the running platform differs from the catalogue (exit status 1 when it does)",
		ValidArgsFunction: o.completeComponents,
		RunE: func(c *cobra.Command, args []string) error {
			ctx := c.Context()
			e, err := o.existing()
			if err != nil {
				return err
			}
			p, err := e.Platform(environment.Selection{Components: args})
			if err != nil {
				return err
			}
			if err := p.LearnImages(ctx); err != nil {
				return err
			}
			client, err := e.Kube(ctx)
			if err != nil {
				return err
			}
			defer client.Close()
			differs := false
			for _, comp := range p.Components {
				if why := p.LeftOut(comp.Name); !why.IsZero() && !slices.Contains(args, comp.Name) {
					fmt.Fprintf(o.err, "note: %s was left out by the last up: %s\n", comp.Name, why)
					continue
				}
				changes, err := p.Diff(ctx, client, comp)
				if err != nil {
					return err
				}
				for _, ch := range changes {
					differs = true
					if o.json() {
						err = printJSON(o.out, ch)
					} else {
						_, err = fmt.Fprintf(o.out, "# %s %s %s/%s\n%s\n", ch.Action, ch.Object.Kind, ch.Object.Namespace, ch.Object.Name, ch.Diff)
					}
					if err != nil {
						return err
					}
				}
			}
			if differs {
				return exitError(exitFailed)
			}
			return nil
		},
	}
}

func (o *options) completeComponents(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	c, err := o.request(ui.Discard).Location().Catalog()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for name, comp := range c.Components {
		names = append(names, name+"\t"+comp.Description)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
