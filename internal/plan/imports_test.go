package plan

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A plan is a function of its input: what could look at the world is not imported.
func TestImports(t *testing.T) {
	allowed := []string{
		"github.com/orrery-dev/orrery/internal/catalog",
		"github.com/orrery-dev/orrery/internal/spec",
		"errors", "fmt", "reflect", "slices", "strings",
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			if path, _ := strconv.Unquote(i.Path.Value); !slices.Contains(allowed, path) {
				t.Errorf("%s imports %s; plan is pure (see doc.go)", file, path)
			}
		}
	}
}
