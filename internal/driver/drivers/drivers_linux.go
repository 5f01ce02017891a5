package drivers

import (
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/driver/native"
)

func init() {
	driver.Register(native.Kind())
}
