package native

import (
	"context"

	"github.com/orrery-dev/orrery/internal/check"
)

// Preflight implements [driver.Driver].
func (d *Driver) Preflight(ctx context.Context) []check.Condition { return nil }

// Delete implements [driver.Driver].
func (d *Driver) Delete(ctx context.Context) error { return d.Stop(ctx) }

// Audit implements [driver.Driver].
func (d *Driver) Audit(ctx context.Context) ([]string, error) { return nil, nil }
