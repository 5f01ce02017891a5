package environment

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/sign"
)

// Remove deletes the environment and audits: each leak is a line for a person. It lets the
// environment go, whose lock and journal are part of what is removed.
//
// From a cluster that somebody else made only what the environment applied is taken. While that
// fails, its state is kept, so that it can be tried again.
func (e *Environment) Remove(ctx context.Context) (leaks []string, err error) {
	if !e.Kind.Nodes {
		if err := e.withdraw(ctx); err != nil {
			return nil, fmt.Errorf("%w\nwhat is kept of the environment stays in %s: 'orrery down%s' goes on", err, e.StateDir, e.Flag())
		}
	}
	errs := []error{e.unmergeKubeconfigs(), e.Driver.Delete(ctx), e.discard()}
	leaks, auditErr := e.Driver.Audit(ctx)
	if sign.Remembered(e.Keys.Dir) {
		leaks = append(leaks, "entry of the kernel's keyring for "+e.Keys.Dir)
	}
	return leaks, errors.Join(append(errs, auditErr)...)
}

// Untouched: the journal names nothing but the state folder, and the password of the key in
// it. Whatever else a verb began to make is named there first.
func (e *Environment) Untouched() bool {
	return !slices.ContainsFunc(e.journal.Live(), func(f driver.Effect) bool { return f.Kind != directoryEffect && f.Kind != keyringEffect })
}

// directoryEffect is the journal's kind for a folder; the ID is its path.
const directoryEffect = "directory"

// Discard removes the state folder of an environment that is untouched. It lets it go.
func (e *Environment) Discard() error { return e.discard() }

// discard removes the state folder, the password of its key in the kernel's keyring (which
// a damaged journal may not name), and the folder above it after the last environment.
func (e *Environment) discard() error {
	err := errors.Join(e.Close(), sign.Forget(e.Keys.Dir), os.RemoveAll(e.StateDir))
	_ = os.Remove(e.request.StateRoot) // fails while another environment is there
	return err
}
