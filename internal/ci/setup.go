package ci

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/mod/modfile"

	"github.com/orrery-dev/orrery/internal/failure"
)

// Tool is a developer's tool, compiled from pinned source.
type Tool struct {
	Name    string `json:"name"`
	Module  string `json:"module"`
	Version string `json:"version"`
	Path    string `json:"path,omitempty"`
	Error   string `json:"error,omitempty"`
}

// quick are the tools that are compiled unless others are named: what the hooks and the gates
// of a pull request need. The others take minutes each.
var quick = []string{"actionlint", "gitleaks", "govulncheck"}

// Tools are those that the folder tools pins.
func (r *Runner) Tools() ([]Tool, error) {
	files, err := filepath.Glob(filepath.Join(r.Root, "tools", "*", "go.mod"))
	if err != nil {
		return nil, err
	}
	var tools []Tool
	for _, file := range append([]string{filepath.Join(r.Root, "tools", "go.mod")}, files...) {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		mod, err := modfile.Parse(file, data, nil)
		if err != nil {
			return nil, fmt.Errorf("read which tools are pinned: %w", err)
		}
		for _, t := range mod.Tool {
			name := filepath.Base(t.Path)
			if dir := filepath.Base(filepath.Dir(file)); dir != "tools" {
				name = dir
			}
			for _, q := range mod.Require {
				if t.Path == q.Mod.Path || len(t.Path) > len(q.Mod.Path) && t.Path[:len(q.Mod.Path)+1] == q.Mod.Path+"/" {
					tools = append(tools, Tool{Name: name, Module: q.Mod.Path, Version: q.Mod.Version})
				}
			}
		}
	}
	return tools, nil
}

// Setup compiles tools that are not compiled yet: those that are named, or the quick ones. It
// goes on past one that cannot be.
func (r *Runner) Setup(ctx context.Context, names []string) ([]Tool, error) {
	tools, err := r.Tools()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if name != "all" && !slices.ContainsFunc(tools, func(t Tool) bool { return t.Name == name }) {
			return nil, failure.Usagef("tools pins no %q: orrery dev setup --list", name)
		}
	}
	if len(names) == 0 {
		names = quick
	}
	for i, t := range tools {
		wanted := slices.Contains(names, t.Name) || slices.Contains(names, "all")
		path, err := r.tool(ctx, t.Name, wanted)
		switch {
		case err == nil:
			tools[i].Path = path
		case wanted:
			tools[i].Error = err.Error()
		}
	}
	return tools, ctx.Err()
}
