package absent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Folder is where stand-ins are, in the folder of the module that is compiled with them.
const Folder = "absent"

// Options of [Make].
type Options struct {
	// Dir holds go.mod and go.sum. Stand-ins are written below it and go.mod is told to use
	// them, so it is a copy.
	Dir string
	// File is the list of what is left out, see [Parse]; relative to Dir.
	File string
	// Package is the program's main package, and Tags are those that it is compiled with.
	Package string
	Tags    []string
	// Env is what go commands run in; GOOS and GOARCH say what is compiled for.
	Env []string
}

// Make writes the stand-ins. It returns the modules that could as well stay in the list or not,
// since nothing of them is used.
func Make(ctx context.Context, o Options) (unused []string, err error) {
	text, err := os.ReadFile(filepath.Join(o.Dir, o.File))
	if err != nil {
		return nil, err
	}
	list, err := Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.File, err)
	}
	uses, err := load(ctx, o, list)
	if err != nil {
		return nil, err
	}
	files, modules, err := uses.write()
	if err != nil {
		return nil, err
	}
	out := filepath.Join(o.Dir, Folder)
	if err := os.Mkdir(out, 0o755); err != nil {
		return nil, fmt.Errorf("%w; it is written here, so it must not be there", err)
	}
	for name, data := range files {
		path := filepath.Join(out, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return nil, err
		}
	}
	edit := []string{"mod", "edit"}
	for _, m := range modules {
		edit = append(edit, "-replace="+m+"=./"+Folder+"/"+folder(m))
	}
	if len(modules) > 0 {
		if _, err := o.goCommand(ctx, edit...); err != nil {
			return nil, err
		}
	}
	for m := range list.Modules {
		if !slices.Contains(modules, m) {
			unused = append(unused, m)
		}
	}
	slices.Sort(unused)
	return unused, nil
}

// folder of a module below [Folder].
func folder(module string) string { return strings.ReplaceAll(module, "/", "-") }
