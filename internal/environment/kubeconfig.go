package environment

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/kubeconfig"
)

// kubeconfigEffect is the journal's kind for a kubeconfig that the environment was
// merged into; the ID is its absolute path.
const kubeconfigEffect = "kubeconfig"

// previousContext is what the journal notes of a kubeconfig: its current context before.
const previousContext = "previous"

// ContextName is the name of the environment in kubeconfigs.
func (e *Environment) ContextName() string { return "orrery-" + e.Spec.Name }

// How long a person's key lasts: by default over a weekend and a few days of leave, and at most.
const (
	DefaultLife = 7 * 24 * time.Hour
	MaxLife     = 365 * 24 * time.Hour
)

// Issue makes a kubeconfig for a person, whose key ends; life 0 is [DefaultLife]. Of a cluster that
// somebody else made it is the one that the environment was given: ends is zero then, and a life
// cannot be chosen. The cluster has to answer.
func (e *Environment) Issue(ctx context.Context, life time.Duration) (kubeconfig []byte, ends time.Time, err error) {
	own, err := e.Kubeconfig(ctx)
	if err != nil {
		return nil, ends, err
	}
	d, ok := e.Driver.(driver.Issuer)
	switch {
	case !ok && life != 0:
		return nil, ends, failure.Usagef("--ttl: the keys of a cluster of driver %s are not made here", e.Kind.Name)
	case !ok:
		if kubeconfig, err = os.ReadFile(own); err != nil {
			return nil, ends, fmt.Errorf("read the environment's kubeconfig: %w", err)
		}
		return kubeconfig, ends, nil
	case life < 0 || life > MaxLife:
		return nil, ends, failure.Usagef("--ttl %s: want a time of at most %s, such as 8h", life, MaxLife)
	}
	kubeconfig, ends, err = d.Issue(ctx, cmp.Or(life, DefaultLife))
	if err != nil {
		return nil, ends, fmt.Errorf("%w\nis the environment running? orrery status%s", err, e.Flag())
	}
	return kubeconfig, ends, nil
}

// MergeKubeconfig adds the environment to a person's kubeconfig, with what [Environment.Issue]
// makes, and makes it the current context there; Remove takes it out again.
func (e *Environment) MergeKubeconfig(ctx context.Context, file string, life time.Duration) (ends time.Time, err error) {
	own, ends, err := e.Issue(ctx, life)
	if err != nil {
		return ends, err
	}
	if file, err = filepath.Abs(file); err != nil {
		return ends, err
	}
	previous, err := kubeconfig.Current(file)
	if err != nil {
		return ends, err
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
		return ends, err
	}
	return ends, kubeconfig.Merge(own, file, e.ContextName())
}

// endingKey has a line when the key in the caller's kubeconfig has ended, or has a seventh of its
// life left: of a week, a day.
func (e *Environment) endingKey(now time.Time) []string {
	file, err := kubeconfig.Default()
	if err != nil {
		return nil
	}
	key, err := kubeconfig.Certificate(file, e.ContextName())
	if _, ours := e.Driver.(driver.Issuer); err != nil || key == nil || !ours {
		return nil
	}
	if left, life := key.NotAfter.Sub(now), key.NotAfter.Sub(key.NotBefore); left > life/7 {
		return nil
	}
	verb := "ends"
	if now.After(key.NotAfter) {
		verb = "ended"
	}
	return []string{fmt.Sprintf("the key of context %s in %s %s at %s; for a new one: orrery kubeconfig%s --merge",
		e.ContextName(), file, verb, key.NotAfter.Local().Format("2006-01-02 15:04 MST"), e.Flag())}
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
			errs = append(errs, fmt.Errorf("%w; take it out yourself: kubectl --kubeconfig %[2]s config delete-context %[3]s;"+
				" kubectl --kubeconfig %[2]s config delete-cluster %[3]s; kubectl --kubeconfig %[2]s config delete-user %[3]s",
				err, f.ID, e.ContextName()))
			continue
		}
		errs = append(errs, e.journal.Undone(driver.Effect{Kind: f.Kind, ID: f.ID}))
	}
	return errors.Join(errs...)
}
