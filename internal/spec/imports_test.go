package spec

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The spec is read by everything: nothing that acts on the world is imported (os reads the file).
func TestImports(t *testing.T) {
	allowed := []string{
		"go.yaml.in/yaml/v3", "github.com/orrery-dev/orrery/internal/reference",
		"bytes", "cmp", "embed", "encoding/binary", "errors", "fmt", "io", "math", "net/netip",
		"os", "path/filepath", "reflect", "regexp", "slices", "strconv", "strings",
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
				t.Errorf("%s imports %s; spec is pure (see doc.go)", file, path)
			}
		}
	}
}
