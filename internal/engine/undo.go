package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/orrery-dev/orrery/internal/driver"
)

// Undo replays j backwards: each live effect is given to the function of its kind, and
// marked undone when that succeeds. It goes on past errors and joins them; what failed
// stays in the journal for another attempt. An end of ctx stops it. The functions must take an
// effect that was never made, or is gone already, as success.
func Undo(ctx context.Context, j *Journal, kinds map[string]func(ctx context.Context, e driver.Effect) error) error {
	var errs []error
	for _, e := range slices.Backward(j.Live()) {
		if err := context.Cause(ctx); err != nil {
			errs = append(errs, fmt.Errorf("undoing %s %s and what was made before it: %w", e.Kind, e.ID, err))
			break
		}
		undo, ok := kinds[e.Kind]
		if !ok {
			errs = append(errs, fmt.Errorf("undoing %s %s: this orrery does not know that kind of effect", e.Kind, e.ID))
			continue
		}
		if err := guard(func() error { return undo(ctx, e) }); err != nil {
			errs = append(errs, fmt.Errorf("undoing %s %s: %w", e.Kind, e.ID, err))
			continue
		}
		if err := j.Undone(e); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
