package script

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/orrery-dev/orrery/internal/app"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"orrery": func() { os.Exit(app.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

func TestScripts(t *testing.T) {
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			// Nothing of a real platform on this machine is read or touched.
			e.Setenv("ORRERY_STATE_DIR", filepath.Join(e.WorkDir, "state"))
			e.Setenv("ORRERY_CACHE_DIR", filepath.Join(e.WorkDir, "cache"))
			e.Setenv("REPO", repo)
			e.Setenv("HOME", e.WorkDir)
			// What is compiled here is small; the standard library below it is not.
			if out, err := exec.Command("go", "env", "GOCACHE").Output(); err == nil {
				if err := os.Mkdir(filepath.Join(e.WorkDir, "cache"), 0o755); err != nil {
					return err
				}
				if err := os.Symlink(strings.TrimSpace(string(out)), filepath.Join(e.WorkDir, "cache", "go-build")); err != nil {
					return err
				}
			}
			for _, name := range []string{"GOPATH", "GOMODCACHE", "GOPROXY", "GOCACHE", "GOFLAGS"} {
				if v := os.Getenv(name); v != "" {
					e.Setenv(name, v)
				}
			}
			return nil
		},
		Condition: func(cond string) (bool, error) { return cond == "root" && os.Geteuid() == 0, nil },
	})
}
