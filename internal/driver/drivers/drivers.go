// Package drivers makes the drivers known that this orrery has: a line for each, here those
// that work everywhere. It is imported for that alone.
package drivers

import (
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/driver/existing"
	"github.com/orrery-dev/orrery/internal/driver/k3d"
)

func init() {
	driver.Register(existing.Kind())
	driver.Register(k3d.Kind())
}
