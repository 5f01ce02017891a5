package ci

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// told is a command line that writes down what it is asked for, in place of orrery, so that a workflow is
// run to its end in seconds.
const told = `package main

import (
	"fmt"
	"os"
	"strings"
)

func main() {
	f, err := os.OpenFile(os.Getenv("ACT_FIXTURE_TOLD"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		panic(err)
	}
	fmt.Fprintln(f, strings.Join(os.Args[1:], " "))
	f.Close()
}
`

// TestAct runs each workflow with act on this machine: jobs, matrices, conditions and the order of steps are as act
// reads them, the commands are those of the files. Actions of others, which a network would bring, are
// stand-ins that say their name, and so is orrery.
func TestAct(t *testing.T) {
	act, err := exec.LookPath(cmp.Or(os.Getenv("ORRERY_TEST_ACT"), "act"))
	if err != nil {
		t.Skipf("act (github.com/nektos/act) is neither on PATH nor what ORRERY_TEST_ACT names: %v", err)
	}
	build := []string{}
	for _, name := range mustFind(t, "build").Of {
		if name != "reproducible" {
			build = append(build, "ci run "+name)
		}
	}
	for _, tt := range []struct {
		workflow, event string
		want            []string // in any order where jobs run side by side
	}{
		{"build", "pull_request", append(build, "ci run reproducible --strict")},
		{"test", "push", []string{"ci run test"}},
		{"nightly", "schedule", []string{"ci run nightly", "ci run released", "ci run update"}},
		{"release", "push", []string{"dev setup syft", "ci run release-make --strict", "ci run release-publish --strict", "ci run release-bump"}},
	} {
		t.Run(tt.workflow, func(t *testing.T) {
			files, err := (&Runner{Root: here}).workflows()
			if err != nil {
				t.Fatal(err)
			}
			tree := map[string]string{"go.mod": "module github.com/orrery-dev/orrery\n\ngo 1.26\n", "cmd/orrery/main.go": told}
			args := []string{tt.event, "--workflows", ".github/workflows/" + tt.workflow + ".yml", "--platform", "ubuntu-24.04=-self-hosted",
				"--action-offline-mode", "--pull=false", "--no-cache-server", "--concurrent-jobs", "2"}
			actions := t.TempDir()
			for name, data := range files {
				tree[".github/"+name] = string(data)
				for _, m := range regexp.MustCompile(`uses: ([\w.-]+/[\w.-]+)@([0-9a-f]{40})`).FindAllStringSubmatch(string(data), -1) {
					dir := filepath.Join(actions, m[1])
					write(t, dir, map[string]string{"action.yml": "name: stand-in\nruns:\n  using: composite\n  steps:\n    - shell: bash\n      run: echo " + m[1] + "\n"})
					if pair := m[1] + "@" + m[2] + "=" + dir; !slices.Contains(args, pair) {
						args = append(args, "--local-repository", pair)
					}
				}
			}
			r := clone(t, tree)
			git(t, r.Root, "remote", "add", "origin", "https://github.com/orrery-dev/orrery")
			git(t, r.Root, "tag", "v0.1.0")
			bin := t.TempDir()
			if err := os.WriteFile(filepath.Join(bin, "sudo"), []byte("#!/bin/sh\nshift\nexec \"$@\"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			log := filepath.Join(t.TempDir(), "told")
			cmd := exec.CommandContext(t.Context(), act, args...)
			cmd.Dir = r.Root
			cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "ACT_FIXTURE_TOLD="+log, "HOME="+t.TempDir(), "XDG_CACHE_HOME="+t.TempDir(),
				"GOCACHE="+goEnv(t, "GOCACHE"), "GOFLAGS=-buildvcs=false")
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("act %s: %v\n%s", tt.event, err, out)
			}
			said, _ := os.ReadFile(log)
			got := strings.Split(strings.TrimSpace(string(said)), "\n")
			if tt.workflow != "release" {
				slices.Sort(got)
				slices.Sort(tt.want)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("ran\n%s\nwant\n%s\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"), out)
			}
			if bytes.Contains(out, []byte("❌")) {
				t.Errorf("a step failed:\n%s", out)
			}
		})
	}
}

func mustFind(t *testing.T, name string) Job {
	t.Helper()
	j, err := find(name)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
	if err != nil {
		t.Fatal(fmt.Errorf("go env %s: %w", name, err))
	}
	return strings.TrimSpace(string(out))
}
