// Package drivers makes the drivers known that this orrery has: a line for each. It is
// imported for that alone.
package drivers

import (
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/driver/native"
)

func init() {
	driver.Register(native.Kind())
}
