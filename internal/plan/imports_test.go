package plan

import (
	"testing"

	"github.com/orrery-dev/orrery/internal/imports"
)

// A plan is a function of its input: what could look at the world is not imported.
func TestImports(t *testing.T) {
	imports.Only(t,
		"github.com/orrery-dev/orrery/internal/catalog",
		"github.com/orrery-dev/orrery/internal/spec",
		"errors", "fmt", "reflect", "slices", "strings",
	)
}
