package environment

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/ui"
)

// programs has the host find these scripts, and nothing else.
func programs(t *testing.T, scripts map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, script := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	return dir
}

func TestMissingPackages(t *testing.T) {
	programs(t, map[string]string{
		"here":       "",
		"dpkg-query": `case "$4" in gcc) printf installed;; libfoo-dev) printf config-files;; *) exit 1;; esac`,
	})
	wanted := map[string]string{"here": "here-package", "no-such-program": "zz-package", "no-such-either": "zz-package"}
	if got := MissingPackages(t.Context(), wanted, []catalog.Binary{{Name: "a", CHeaders: []string{"libbar-dev"}}}); !slices.Equal(got, []string{"zz-package"}) {
		t.Errorf("without cgo: %v", got)
	}
	toBuild := []catalog.Binary{{Name: "a", CGO: true, CHeaders: []string{"libfoo-dev"}}, {Name: "b", CGO: true}}
	if got := MissingPackages(t.Context(), wanted, toBuild); !slices.Equal(got, []string{"libc6-dev", "libfoo-dev", "zz-package"}) {
		t.Errorf("with cgo: %v", got)
	}
}

// Packages are named before they are installed, and only where that is allowed; the package lists
// are read anew when the old ones do not do.
func TestInstallPackages(t *testing.T) {
	const log = `echo "$1 $DEBIAN_FRONTEND" >> "${0%/*}/log"` + "\n"
	for name, c := range map[string]struct {
		script  string
		allowed bool
		refused string
		calls   string
	}{
		"not allowed":     {script: log, refused: "install with: apt-get install -y a b"},
		"at once":         {script: log, allowed: true, calls: "install"},
		"lists are old":   {script: log + `case "$1" in update) echo > "${0%/*}/fresh";; install) [ -e "${0%/*}/fresh" ];; esac`, allowed: true, calls: "install update install"},
		"no such package": {script: log + `[ "$1" = update ]`, allowed: true, refused: "apt-get install -y a b: ", calls: "install update install"},
		"no list":         {script: log + "exit 1", allowed: true, refused: "refresh the package lists before", calls: "install update"},
		"no apt-get":      {allowed: true, refused: "has no apt-get: install their equivalents"},
		"nothing to do":   {script: log, allowed: true},
	} {
		t.Run(name, func(t *testing.T) {
			scripts := map[string]string{}
			if c.script != "" {
				scripts["apt-get"] = c.script
			}
			dir := programs(t, scripts)
			pkgs := []string{"a", "b"}
			if name == "nothing to do" {
				pkgs = nil
			}
			told := ""
			err := installPackages(t.Context(), pkgs, c.allowed, ui.SinkFunc(func(e ui.Event) { told += e.Message }))
			if c.refused == "" && err != nil || c.refused != "" && (!failure.IsRefused(err) || !strings.Contains(err.Error(), c.refused)) {
				t.Errorf("%v, want %q", err, c.refused)
			}
			text, _ := os.ReadFile(filepath.Join(dir, "log"))
			if got := strings.Join(strings.Fields(strings.ReplaceAll(string(text), "noninteractive", "")), " "); got != c.calls {
				t.Errorf("apt-get was asked to %q, want %q", got, c.calls)
			}
			if c.calls != "" && !strings.Contains(told, "a, b") {
				t.Errorf("nobody was told: %q", told)
			}
			if strings.Count(string(text), "noninteractive") != len(strings.Fields(c.calls)) {
				t.Errorf("it may ask the person: %q", text)
			}
		})
	}
}
