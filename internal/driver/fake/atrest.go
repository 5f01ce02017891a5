package fake

import (
	"context"

	"github.com/orrery-dev/orrery/internal/driver"
)

// RotateAtRest implements [driver.AtRestKeeper]. There is nothing to write anew.
func (d *Driver) RotateAtRest(ctx context.Context, tell func(string)) (done driver.AtRestRotation, err error) {
	err = d.do(ctx, "RotateAtRest", func() error {
		if tell != nil {
			tell("write everything anew")
		}
		done = driver.AtRestRotation{From: "key1", To: "key2", Rewritten: 3, Encrypted: 4}
		return nil
	})
	return done, err
}

// AtRestKey implements [driver.AtRestKeeper]: all is encrypted.
func (d *Driver) AtRestKey(ctx context.Context, _, _, _ string) (string, error) {
	return "key1", d.do(ctx, "AtRestKey", func() error { return nil })
}
