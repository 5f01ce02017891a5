package spec

import (
	"testing"

	"github.com/orrery-dev/orrery/internal/imports"
)

// The spec is read by everything: nothing that acts on the world is imported (os reads the file).
func TestImports(t *testing.T) {
	imports.Only(t,
		"go.yaml.in/yaml/v3", "github.com/orrery-dev/orrery/internal/reference", "github.com/orrery-dev/orrery/internal/spelling",
		"bytes", "cmp", "embed", "encoding/binary", "errors", "fmt", "io", "math", "net/netip",
		"os", "path/filepath", "reflect", "regexp", "slices", "strconv", "strings",
	)
}
