package build

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	modpath "golang.org/x/mod/module"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/proc"
)

// ProgramInfo is what Go wrote into a program about itself.
type ProgramInfo struct {
	Path    string   `json:"path"` // in the image
	Package string   `json:"package"`
	Go      string   `json:"go"`
	Main    Module   `json:"main"`
	Modules []Module `json:"modules"`
	// Settings are the build settings, as NAME=VALUE.
	Settings []string `json:"settings"`
}

// Module is a module that is linked into a program, after replacement.
type Module struct {
	Path    string `json:"path"`
	Version string `json:"version,omitempty"`
	Sum     string `json:"sum,omitempty"` // "h1:…"; empty for folders of this repository
	// Replaces is the module that this one stands for.
	Replaces string `json:"replaces,omitempty"`
}

// Program reads what Go wrote into a binary, building it if it is not cached.
func (b *Builder) Program(ctx context.Context, bin catalog.Binary) (ProgramInfo, error) {
	path, err := b.Binary(ctx, bin)
	if err != nil {
		return ProgramInfo{}, err
	}
	info, err := ReadProgram(path)
	if err != nil {
		return ProgramInfo{}, fmt.Errorf("read the build information of %s: %w", bin.Name, err)
	}
	return info, nil
}

// ReadProgram reads what Go wrote into the program in a file.
func ReadProgram(file string) (ProgramInfo, error) {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return ProgramInfo{}, err
	}
	return programInfo(info), nil
}

func programInfo(info *buildinfo.BuildInfo) ProgramInfo {
	p := ProgramInfo{Package: info.Path, Go: info.GoVersion, Main: moduleOf(&info.Main)}
	for _, d := range info.Deps {
		p.Modules = append(p.Modules, moduleOf(d))
	}
	for _, s := range info.Settings {
		p.Settings = append(p.Settings, s.Key+"="+s.Value)
	}
	return p
}

func moduleOf(m *debug.Module) Module {
	if m.Replace == nil {
		return Module{Path: m.Path, Version: strings.TrimPrefix(m.Version, "(devel)"), Sum: m.Sum}
	}
	r := moduleOf(m.Replace)
	r.Replaces = m.Path
	if m.Version != "" {
		r.Replaces += "@" + m.Version
	}
	return r
}

// ModuleDirs returns the folder in the module cache of every module that has one, by
// path. What is not there is downloaded.
func (b *Builder) ModuleDirs(ctx context.Context, bin catalog.Binary, modules []Module) (map[string]string, error) {
	src, err := b.source(bin)
	if err != nil {
		return nil, err
	}
	tc, err := b.toolchain(ctx, src)
	if err != nil {
		return nil, err
	}
	dirs := map[string]string{}
	args := []string{"mod", "download"}
	for _, m := range modules {
		if m.Version == "" || m.Path == "" {
			continue
		}
		path, err := modpath.EscapePath(m.Path)
		if err != nil {
			return nil, err
		}
		version, err := modpath.EscapeVersion(m.Version)
		if err != nil {
			return nil, err
		}
		dirs[m.Path] = filepath.Join(tc.env["GOMODCACHE"], filepath.FromSlash(path)+"@"+version)
		if _, err := os.Stat(dirs[m.Path]); err != nil {
			args = append(args, m.Path+"@"+m.Version)
		}
	}
	if len(args) > 2 {
		cmd := &proc.Cmd{Path: tc.path, Args: args, Dir: src.dir, Env: b.environment(tc, false, filepath.Join(b.opts.CacheDir, goCachePrefix)), Tail: maxDiagnostics}
		if err := proc.Run(ctx, cmd); err != nil {
			return nil, fmt.Errorf("download the modules of %s: %w", bin.Name, err)
		}
	}
	return dirs, nil
}
