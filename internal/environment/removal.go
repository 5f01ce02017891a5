package environment

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/sign"
	"github.com/orrery-dev/orrery/internal/statedir"
)

// Remove deletes the environment and audits: each leak is a line for a person. The lock is
// held until then, so that the audit sees nothing of an 'up' that waits; then it is let go.
//
// From a cluster that somebody else made only what the environment applied is taken. While that or
// the driver fails, the state is kept: it may be all that says what is ours, as of containers.
func (e *Environment) Remove(ctx context.Context) (leaks []string, err error) {
	defer func() { err = errors.Join(err, e.Close()) }()
	if !e.Kind.Nodes {
		if err := e.withdraw(ctx); err != nil {
			return nil, e.kept(err)
		}
	}
	errs := []error{e.unmergeKubeconfigs(), e.distrusted(ctx)}
	if err := e.Driver.Delete(ctx); err != nil {
		errs = append(errs, e.kept(err))
	} else {
		errs = append(errs, e.discard())
	}
	leaks, auditErr := e.Driver.Audit(ctx)
	if sign.Remembered(e.ownKeys()) {
		leaks = append(leaks, "entry of the kernel's keyring for "+e.ownKeys())
	}
	return leaks, errors.Join(append(errs, auditErr)...)
}

func (e *Environment) kept(err error) error {
	return fmt.Errorf("%w\nwhat is kept of the environment stays in %s: 'orrery down%s' goes on", err, e.StateDir, e.Flag())
}

// Untouched: the journal names nothing but the state folder, and the password of the key in
// it. Whatever else a verb began to make is named there first.
func (e *Environment) Untouched() bool {
	return !slices.ContainsFunc(e.journal.Live(), func(f driver.Effect) bool { return f.Kind != directoryEffect && f.Kind != keyringEffect })
}

// directoryEffect is the journal's kind for a folder; the ID is its path.
const directoryEffect = "directory"

// DiscardUnmade removes the state folder of an environment that was only about to be made: the
// journal names nothing outside of it, and the driver sees nothing. It lets it go. Of any other
// it removes nothing.
func (e *Environment) DiscardUnmade(ctx context.Context) error {
	if e.request.Verb == "" || !e.Untouched() {
		return nil
	}
	o, err := e.Driver.Observe(context.WithoutCancel(ctx))
	if err != nil || o.Phase != driver.PhaseAbsent {
		return nil //nolint:nilerr // what cannot be seen stays
	}
	return errors.Join(e.discard(), e.Close())
}

// discard removes the state folder and the password of its key in the kernel's keyring (which
// a damaged journal may not name).
func (e *Environment) discard() error {
	err := e.journal.Close()
	e.journal = readOnlyJournal{}
	return errors.Join(err, sign.Forget(e.ownKeys()), statedir.Remove(e.StateDir))
}
