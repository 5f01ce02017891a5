// Package drivers makes the drivers known that this orrery has: a line for each, here those
// that work everywhere. It is imported for that alone.
package drivers

import (
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/driver/existing"
)

func init() {
	driver.Register(existing.Kind())
}
