package environment

import (
	"context"
	"fmt"

	"github.com/orrery-dev/orrery/internal/driver"
)

// AtRest is what looks after the keys of etcd's contents; an error where those are none of ours.
func (e *Environment) AtRest() (driver.AtRestKeeper, error) {
	keeper, ok := e.Driver.(driver.AtRestKeeper)
	if !ok {
		return nil, fmt.Errorf("the %s driver has no etcd of its own: ask whoever made the cluster", e.Kind.Name)
	}
	return keeper, nil
}

// RotateAtRest exchanges the key of etcd's contents. step is called before each part of the work.
func (e *Environment) RotateAtRest(ctx context.Context, step func(name string)) (driver.AtRestRotation, error) {
	keeper, err := e.AtRest()
	if err != nil {
		return driver.AtRestRotation{}, err
	}
	done, err := keeper.RotateAtRest(ctx, step)
	if err != nil {
		return done, fmt.Errorf("rotate the key of environment %q: %w", e.Spec.Name, err)
	}
	return done, nil
}
