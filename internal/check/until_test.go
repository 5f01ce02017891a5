package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestUntil(t *testing.T) {
	notYet, broken := errors.New("not yet"), errors.New("broken")
	for name, tc := range map[string]struct {
		pause   Pause
		answers []error // the last one again and again
		want    error
		calls   int
		took    time.Duration
	}{
		"at once":            {Pause{First: time.Second}, []error{nil}, nil, 1, 0},
		"after a while":      {Pause{First: time.Second}, []error{notYet, notYet, nil}, nil, 3, 2 * time.Second},
		"final":              {Pause{First: time.Second}, []error{notYet, Final(broken)}, broken, 2, time.Second},
		"final, wrapped":     {Pause{First: time.Second}, []error{fmt.Errorf("ask: %w", Final(broken))}, broken, 1, 0},
		"never":              {Pause{First: 4 * time.Second}, []error{notYet}, notYet, 3, 10 * time.Second},
		"longer every time":  {Pause{2 * time.Second, 4 * time.Second}, []error{notYet, notYet, notYet, nil}, nil, 4, 9 * time.Second},
		"no error but late":  {Pause{First: 9 * time.Second}, []error{notYet, nil}, nil, 2, 9 * time.Second},
		"Most below the one": {Pause{2 * time.Second, time.Second}, []error{notYet, notYet, nil}, nil, 3, 4 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				began, calls := time.Now(), 0
				err := Until(ctx, tc.pause, func() error {
					calls++
					return tc.answers[min(calls, len(tc.answers))-1]
				})
				if !errors.Is(err, tc.want) || calls != tc.calls || time.Since(began) != tc.took {
					t.Errorf("%v after %d calls and %v; want %v, %d, %v", err, calls, time.Since(began), tc.want, tc.calls, tc.took)
				}
				if tc.took == 10*time.Second && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v does not say why it gave up", err)
				}
			})
		})
	}
}

// What the end of the time did to the last call says less than what was seen before.
func TestUntilKeepsTheLastThingSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		seen := []error{errors.New("one replica of three"), errors.New("two replicas of three")}
		calls := 0
		err := Until(ctx, Pause{First: time.Second}, func() error {
			calls++
			if calls <= len(seen) {
				return seen[calls-1]
			}
			<-ctx.Done()
			return ctx.Err()
		})
		if !errors.Is(err, seen[1]) || slices.ContainsFunc(seen[:1], func(old error) bool { return errors.Is(err, old) }) {
			t.Errorf("%v, want %v", err, seen[1])
		}
	})
}
