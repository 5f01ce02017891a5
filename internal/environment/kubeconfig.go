package environment

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/kubeconfig"
)

// kubeconfigEffect is the journal's kind for a kubeconfig that the environment was
// merged into; the ID is its absolute path.
const kubeconfigEffect = "kubeconfig"

// previousContext is what the journal notes of a kubeconfig: its current context before.
const previousContext = "previous"

// ContextName is the name of the environment in kubeconfigs.
func (e *Environment) ContextName() string { return "orrery-" + e.Spec.Name }

// MergeKubeconfig adds the environment to a person's kubeconfig and makes it the current
// context there; Remove takes it out again.
func (e *Environment) MergeKubeconfig(ctx context.Context, file string) error {
	own, err := e.Kubeconfig(ctx)
	if err != nil {
		return err
	}
	if file, err = filepath.Abs(file); err != nil {
		return err
	}
	previous, err := kubeconfig.Current(file)
	if err != nil {
		return err
	}
	effect := driver.Effect{Kind: kubeconfigEffect, ID: file}
	for _, f := range e.journal.Live() {
		if f.Kind == effect.Kind && f.ID == file { // merged before: what was current then counts
			previous = f.Info[previousContext]
		}
	}
	if previous != "" && previous != e.ContextName() {
		effect.Info = map[string]string{previousContext: previous}
	}
	if err := e.journal.Begin(effect); err != nil {
		return err
	}
	return kubeconfig.Merge(own, file, e.ContextName())
}

// unmergeKubeconfigs takes the environment out of kubeconfigs it was merged into. What cannot
// be taken out is told with what to do: it is not known any more when the environment is gone.
func (e *Environment) unmergeKubeconfigs() error {
	var errs []error
	for _, f := range e.journal.Live() {
		if f.Kind != kubeconfigEffect {
			continue
		}
		err := kubeconfig.Remove(f.ID, e.ContextName(), f.Info[previousContext])
		if err != nil {
			errs = append(errs, fmt.Errorf("%w; take it out yourself: kubectl --kubeconfig %[2]s config delete-context %[3]s; kubectl --kubeconfig %[2]s config delete-cluster %[3]s; kubectl --kubeconfig %[2]s config delete-user %[3]s",
				err, f.ID, e.ContextName()))
			continue
		}
		errs = append(errs, e.journal.Undone(driver.Effect{Kind: f.Kind, ID: f.ID}))
	}
	return errors.Join(errs...)
}
