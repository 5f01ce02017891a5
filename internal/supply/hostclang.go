package supply

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/orrery-dev/orrery/internal/apt"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/proc"
	"github.com/orrery-dev/orrery/internal/spec"
)

// oldestClang is what Cilium's BPF programs need, from its system requirements.
var oldestClang = [2]int{18, 1}

// HostCompiler is the host's own clang where bin is the compiler, and nodes can see it; empty
// otherwise.
func HostCompiler(ctx context.Context, bin catalog.Binary) string {
	if bin.Debian == nil {
		return ""
	}
	clang, err := hostClang(ctx)
	if err == nil {
		clang, err = filepath.EvalSymlinks(clang)
	}
	if err != nil || !strings.HasPrefix(clang, "/usr/") { // nodes see the host's /usr
		return ""
	}
	return clang
}

// Compiler says what compiles BPF programs for nodes: Debian's clang, where it is in the cache
// or can be fetched, or came in a bundle; else the host's own. The error says what to do.
func (s *Supply) Compiler(ctx context.Context) (string, error) {
	i := slices.IndexFunc(s.Catalog.Distribution.For(spec.PluginCilium).Archives, func(a catalog.Binary) bool { return a.Debian != nil })
	if i < 0 {
		return "", errors.New("the catalogue names no compiler of BPF programs for network plugin cilium")
	}
	bin := s.Catalog.Distribution.For(spec.PluginCilium).Archives[i]
	have, err := s.Cached(ctx, bin)
	switch {
	case err != nil:
		return "", err
	case have:
		return bin.Name + " " + bin.Version, nil
	case s.store != nil:
		return "", fmt.Errorf("bundle %s was made for another network plugin: it has no %s", s.options.Location.Bundle(), bin.Name)
	}
	unavailable := apt.Available()
	if unavailable == nil {
		return fmt.Sprintf("%s %s, fetched from Debian,", bin.Name, bin.Version), nil
	}
	clang, err := hostClang(ctx)
	if err != nil {
		return "", fmt.Errorf("%w; %w", unavailable, err)
	}
	return clang, nil
}

// hostClangs are the names that a clang may have on PATH, in order of preference.
var hostClangs = []string{"clang", "clang-21", "clang-20", "clang-19", "clang-18"}

// hostClang is the path of the host's own clang, if it has one that is new enough.
func hostClang(ctx context.Context) (string, error) {
	var tooOld error
	for _, name := range hostClangs {
		path, err := proc.Look(name)
		if errors.Is(err, exec.ErrNotFound) {
			continue
		}
		if err != nil {
			return "", err
		}
		var out strings.Builder
		if err := proc.Run(ctx, &proc.Cmd{Path: path, Args: []string{"--version"}, Stdout: &out}); err != nil {
			return "", fmt.Errorf("%s --version: %w", path, err)
		}
		if err = checkClang(path, out.String()); err == nil {
			return path, nil
		}
		tooOld = errors.Join(tooOld, err)
	}
	if tooOld != nil {
		return "", tooOld
	}
	return "", fmt.Errorf("clang not found, which compiles the BPF programs for each node: apt-get install clang"+
		" (%d.%d or later)", oldestClang[0], oldestClang[1])
}

var clangVersion = regexp.MustCompile(`clang version (\d+\.\d+)`)

func checkClang(path, output string) error {
	m := clangVersion.FindStringSubmatch(output)
	if m == nil {
		return fmt.Errorf("%s does not say its version: it prints %q", path, output)
	}
	if v := numbers(m[1]); slices.Compare(v, oldestClang[:]) < 0 {
		return fmt.Errorf("%s is version %s, too old for Cilium's BPF programs: %d.%d or later is needed", path, m[1], oldestClang[0], oldestClang[1])
	}
	return nil
}

// numbers reads a version such as 19.1; what is no number is 0.
func numbers(version string) (v []int) {
	for part := range strings.SplitSeq(version, ".") {
		n, _ := strconv.Atoi(part)
		v = append(v, n)
	}
	return v
}
