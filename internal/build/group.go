package build

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/singleflight"
)

// errOthersCancel marks the outcome of a call whose own context ended.
var errOthersCancel = errors.New("cancelled")

// Group runs one function per key at a time. Its zero value is ready.
type Group struct{ calls singleflight.Group }

// Do runs f unless somebody runs it for the same key, whose outcome is taken then, except
// when that somebody was cancelled and we were not.
func (g *Group) Do(ctx context.Context, key string, f func() error) error {
	for {
		var mine atomic.Bool
		result := g.calls.DoChan(key, func() (any, error) {
			mine.Store(true)
			err := f()
			if err != nil && ctx.Err() != nil {
				err = fmt.Errorf("%w: %w", errOthersCancel, err)
			}
			return nil, err
		})
		select {
		case r := <-result:
			if !mine.Load() && ctx.Err() == nil && errors.Is(r.Err, errOthersCancel) {
				continue
			}
			return r.Err
		case <-ctx.Done():
			if mine.Load() {
				return (<-result).Err // f sees ctx too: let it clean up
			}
			return context.Cause(ctx)
		}
	}
}
