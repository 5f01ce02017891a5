package script

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/orrery-dev/orrery/internal/app"
	"github.com/orrery-dev/orrery/internal/bundle/bundletest"
	"github.com/orrery-dev/orrery/internal/check/smoke/smoketest"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/driver/fake"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"orrery": func() {
			if os.Getenv(fake.HostVariable) != "" {
				driver.Register(fake.Kind())
			}
			os.Exit(app.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
		},
	})
}

// startSmall gives a script that has an orrery.yaml for the fake driver a host for environments,
// and the platform for tests in the folder small.
func startSmall(e *testscript.Env) error {
	text, err := os.ReadFile(filepath.Join(e.WorkDir, "orrery.yaml"))
	if err != nil || !strings.Contains(string(text), "driver: fake") {
		return nil
	}
	if _, err := bundletest.Write(context.Background(), filepath.Join(e.WorkDir, "small")); err != nil {
		return err
	}
	host := fake.StartHost()
	e.Defer(host.Close)
	smoketest.Install(host.Cluster("small").API)
	e.Setenv(fake.HostVariable, host.URL())
	e.Setenv("ORRERY_KEY_PASSWORD", "script")
	e.Setenv("KUBECONFIG", "")
	return nil
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
			return startSmall(e)
		},
		Condition: func(cond string) (bool, error) { return cond == "root" && os.Geteuid() == 0, nil },
	})
}
