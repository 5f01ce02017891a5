package check

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Pause is how long [Until] waits between two calls: First, and each time half as much again
// up to Most. Without Most it stays as it is.
type Pause struct{ First, Most time.Duration }

// Until calls f until it returns nil or what [Final] marks, or ctx ends; then the error is
// the last one of f that was not disturbed by that. It is for what code waits for on its way;
// what a person waits for is a [Condition].
func Until(ctx context.Context, pause Pause, f func() error) error {
	var last error
	for wait := pause.First; ; wait = max(pause.First, min(wait*3/2, pause.Most)) {
		err := f()
		if ctx.Err() == nil || last == nil {
			last = err
		}
		var stop *final
		switch {
		case err == nil:
			return nil
		case errors.As(err, &stop):
			return stop.error
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (waited until %w)", last, context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

// Final marks an error that asking again will not cure.
func Final(err error) error { return &final{err} }

type final struct{ error }

func (f *final) Unwrap() error { return f.error }
