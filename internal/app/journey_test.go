package app

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/bundle/bundletest"
	"github.com/orrery-dev/orrery/internal/check/smoke/smoketest"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/driver/fake"
	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/kube/kubetest"
)

func TestMain(m *testing.M) {
	driver.Register(fake.Kind())
	os.Exit(m.Run())
}

// small is a person in a folder of their own, with an environment file for the fake driver.
type small struct {
	t        *testing.T
	platform bundletest.Platform
	host     *fake.Host
	cluster  *fake.Cluster
	state    string
	cache    string
	// repository is the folder of this one.
	repository string
}

func newSmall(t *testing.T) *small {
	t.Helper()
	dir := t.TempDir()
	repository, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	s := &small{t: t, repository: repository, platform: bundletest.New(t), host: fake.NewHost(t), state: filepath.Join(dir, "state"), cache: filepath.Join(dir, "cache")}
	s.cluster = s.host.Cluster("small")
	smoketest.Install(s.cluster.API)
	for name, value := range map[string]string{
		"ORRERY_STATE_DIR": s.state, "ORRERY_CACHE_DIR": s.cache, "ORRERY_KEY_PASSWORD": "x", "HOME": dir, "KUBECONFIG": "", fake.HostVariable: s.host.URL(),
	} {
		t.Setenv(name, value)
	}
	t.Chdir(dir)
	if err := os.WriteFile("orrery.yaml", bundletest.Environment("small", "fake"), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// run is one invocation.
func (s *small) run(args ...string) (code int, out, errs string) {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	code = Run(args, strings.NewReader(""), &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

// want is one invocation with an exit code, and parts of what it prints on both streams.
func (s *small) want(code int, command string, parts ...string) string {
	s.t.Helper()
	got, out, errs := s.run(strings.Fields(command)...)
	if got != code {
		s.t.Fatalf("orrery %s: exit status %d, want %d\n%s%s", command, got, code, out, errs)
	}
	for _, part := range parts {
		if !strings.Contains(out+errs, part) {
			s.t.Errorf("orrery %s: no %q in\n%s%s", command, part, out, errs)
		}
	}
	return out
}

func (s *small) up() string {
	s.t.Helper()
	return s.want(exitOK, "up --bundle "+s.platform.Bundle+" --key "+s.platform.Key)
}

func TestJourney(t *testing.T) {
	s := newSmall(t)
	s.want(exitFailed, "verify", `there is no environment "small"`, "orrery up --env small")
	s.want(exitOK, "status", "absent")
	s.want(exitOK, "up --dry-run --bundle "+s.platform.Bundle+" --key "+s.platform.Key, "+ deploy/shop")
	if _, err := os.Stat(filepath.Join(s.state, "small")); !os.IsNotExist(err) {
		t.Errorf("a plan made the state folder: %v", err)
	}
	out := s.up()
	for _, part := range []string{"Verified: ", "0 failed", "shop", "orrery kubeconfig --env small --merge"} {
		if !strings.Contains(out, part) {
			t.Errorf("up: no %q in\n%s", part, out)
		}
	}
	s.want(exitOK, "up", "is up to date: nothing to do")
	s.want(exitOK, "status", "running", "shop", "ready")
	s.want(exitOK, "list", "small")
	s.want(exitOK, "verify shop", "0 failed")
	s.want(exitUsage, "verify nothing", `component "nothing" is not part of this environment`)
	s.want(exitOK, "deploy shop", "nothing to do")
	s.want(exitOK, "diff")
	s.want(exitOK, "images list", "shop", "bundle")
	s.want(exitOK, "images verify", "0 not")
	s.want(exitOK, "programs verify", "0 not")
	s.want(exitOK, "render shop", "kind: Deployment")
	s.want(exitOK, "node list", "server1")
	s.want(exitUsage, "node stop server9", `has no node "server9"`)
	s.want(exitOK, "stop")
	s.want(exitOK, "status", "stopped")
	s.want(exitFailed, "deploy shop", "'orrery start --env small' first")
	s.want(exitOK, "start")
	s.want(exitOK, "up", "nothing to do")
	s.want(exitOK, "images prune --mirror --dry-run", "would free 0.0 MB")
	if asked := s.host.Cluster("small").Pruned(); asked == nil || !asked.DryRun || len(asked.InUse) == 0 {
		t.Errorf("the mirror was asked to free all but %+v", asked)
	}
	s.want(exitOK, "images prune --mirror -o json", `"manifests":[]`)
	s.want(exitOK, "kubeconfig --merge", "Context orrery-small", "ends at")
	s.want(exitOK, "support --to support.tar.gz", "support.tar.gz")
	s.want(exitOK, "down", "is gone", "no process")
	if entries, err := os.ReadDir(s.state); err == nil && len(entries) > 0 && entries[0].Name() != ".signing" {
		t.Errorf("left: %v", entries)
	}
	if _, err := os.Stat(".kube/config"); !os.IsNotExist(err) {
		t.Errorf("the merged kubeconfig is left: %v", err)
	}
	s.want(exitOK, "down", `There was no environment "small"`)
}

// The last line of `up -o json` is the summary, also of one that fails.
func TestUpJSON(t *testing.T) {
	s := newSmall(t)
	last := func(out string) (sum struct {
		Type    string
		Changed bool
		Error   string
		Status  environment.Status
		Verify  *report
	}) {
		t.Helper()
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &sum); err != nil || sum.Type != "summary" {
			t.Fatalf("%v, last line of\n%s", err, out)
		}
		return sum
	}
	s.cluster.Fail("Ensure", fake.Fault{Times: 1, Error: "no cgroups"})
	if sum := last(s.want(exitFailed, "up -o json --bundle "+s.platform.Bundle+" --key "+s.platform.Key)); !strings.Contains(sum.Error, "no cgroups") {
		t.Errorf("%+v", sum)
	}
	sum := last(s.want(exitOK, "up -o json --bundle "+s.platform.Bundle+" --key "+s.platform.Key))
	if !sum.Changed || sum.Status.Phase != "running" || sum.Verify == nil || sum.Verify.Failed != 0 || sum.Verify.Passed == 0 {
		t.Errorf("%+v", sum)
	}
	if sum := last(s.want(exitOK, "up -o json")); sum.Changed {
		t.Errorf("%+v", sum)
	}
}

// What fails on the way removes what was made, with an archive that tells why; --retain keeps it.
func TestUpFails(t *testing.T) {
	s := newSmall(t)
	up := "up --bundle " + s.platform.Bundle + " --key " + s.platform.Key
	for _, method := range []string{"Prepare", "Ensure", "Ready"} {
		s.cluster.Fail(method, fake.Fault{Times: 1, Error: "it broke", Late: true})
		s.want(exitFailed, up, "it broke", "logs and events were kept in orrery-support-small-", "removing what was made")
		s.want(exitOK, "status", "absent")
		if _, err := os.Stat(filepath.Join(s.state, "small")); !os.IsNotExist(err) {
			t.Errorf("%s: the state folder is left: %v", method, err)
		}
		if archives, _ := filepath.Glob("orrery-support-*"); len(archives) == 0 {
			t.Errorf("%s: no archive", method)
		}
	}
	s.cluster.Fail("Ensure", fake.Fault{Times: 1, Error: "it broke", Late: true})
	s.want(exitFailed, up+" --retain", "try again: orrery up --env small")
	s.want(exitOK, "up", "Verified")
	// Something that stands and is not well is kept.
	s.cluster.API.Hold(kubetest.Ref{Kind: "Deployment", Name: "shop"}, "ImagePullBackOff: no such image")
	s.want(exitOK, "status", "shop")
	s.cluster.API.Release(kubetest.Ref{Kind: "Deployment", Name: "shop"})
	s.cluster.Fail("Audit", fake.Fault{Leaks: []string{"a mount"}})
	s.want(exitFailed, "down", "a mount", "1 leftovers")
}

// A refusal before anything is outside of the state folder takes the folder away again; one
// that comes later takes away all that was made. An environment that exists is never touched.
func TestUpRefused(t *testing.T) {
	s := newSmall(t)
	up := "up --bundle " + s.platform.Bundle + " --key " + s.platform.Key
	s.cluster.Fail("Preflight", fake.Fault{Times: 1, Error: "no memory"})
	s.want(exitRefused, up, "no memory")
	if _, err := os.Stat(filepath.Join(s.state, "small")); !os.IsNotExist(err) {
		t.Errorf("the state folder is left: %v", err)
	}
	if calls := fmt.Sprint(s.cluster.Calls()); strings.Contains(calls, "Delete") {
		t.Errorf("nothing was made, and the driver was asked to delete: %s", calls)
	}
	s.up()
	// A damaged program in the cache is refused while the mirror runs already.
	s.want(exitOK, "down")
	s.cluster.Fail("Ensure", fake.Fault{Times: 1, Error: "it is refused", Late: true})
	s.want(exitFailed, up, "it is refused")
	if calls := fmt.Sprint(s.cluster.Calls()); !strings.Contains(calls, "Delete") {
		t.Errorf("the mirror ran, and the driver was not asked to delete: %s", calls)
	}
}

func TestDownDamaged(t *testing.T) {
	for file, says := range map[string]string{"environment.json": "is damaged", "journal.jsonl": "journal"} {
		t.Run(file, func(t *testing.T) {
			s := newSmall(t)
			s.up()
			if err := os.WriteFile(filepath.Join(s.state, "small", file), []byte("{{{\n{{{\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			s.want(exitOK, "down", says, "is gone")
			s.want(exitOK, "status", "absent")
		})
	}
}

func TestUsage(t *testing.T) {
	s := newSmall(t)
	for command, part := range map[string]string{
		"up --key x":                                          "--key is about a bundle",
		"up --bundle x --catalog y":                           "--bundle and --catalog",
		"up --bundle nothing.orrery":                          "nothing.orrery",
		"-f nothing.yaml up":                                  "nothing.yaml",
		"--env Bad_Name status":                               "name",
		"console --port 99999":                                "--port must be from 0 to 65535",
		"bundle create nowhere/x.orrery":                      "there is no folder nowhere",
		"bundle distrust sha256:0":                            "not among those that are trusted",
		"images load nothing.tar":                             "nothing.tar",
		"images load x --max-size lots":                       "--max-size lots",
		"status -o yaml":                                      "unknown output format",
		"images inspect nothing --catalog " + s.platform.Root: `there is no image "nothing"`,
	} {
		s.want(exitUsage, command, part)
	}
}

// doctor answers before the first up, from a bundle that is named, or imported and the only one;
// of what exists it says what that was made with.
func TestDoctor(t *testing.T) {
	s := newSmall(t)
	s.want(exitUsage, "doctor", "no catalogue found")
	s.want(exitUsage, "doctor --key "+s.platform.Key, "name it with --bundle FILE")
	s.want(exitOK, "doctor --bundle "+s.platform.Bundle+" --key "+s.platform.Key, "Everything is compiled already")
	if _, err := os.Stat(s.cache); !os.IsNotExist(err) {
		t.Errorf("doctor made the cache: %v", err)
	}
	s.want(exitOK, "bundle import "+s.platform.Bundle+" --key "+s.platform.Key)
	s.want(exitOK, "doctor", "Everything is compiled already")
	s.up()
	// The file of this folder is for a driver that there is not; the environment is not made with it.
	if err := os.WriteFile("orrery.yaml", bundletest.Environment("other", "nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.want(exitUsage, "doctor", "nothing")
	s.want(exitOK, "doctor --env small", "Everything is compiled already")
	s.want(exitUsage, "doctor --env small -f orrery.yaml", "nothing")
}

// A file that the admin's key is printed to is its owner's.
func TestKubeconfigFile(t *testing.T) {
	s := newSmall(t)
	s.up()
	f, err := os.OpenFile("kc", os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Chmod(0o644); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	if code := Run([]string{"kubeconfig"}, strings.NewReader(""), f, &stderr); code != exitOK || !strings.HasPrefix(stderr.String(), "This key ends at ") {
		t.Fatalf("exit status %d, %s", code, stderr.String())
	}
	if info, err := f.Stat(); err != nil || info.Mode().Perm() != 0o600 || info.Size() == 0 {
		t.Errorf("%v, mode %v, %d bytes", err, info.Mode(), info.Size())
	}
	for _, life := range []string{"-1h", "9000h"} {
		s.want(exitUsage, "kubeconfig --ttl "+life, "--ttl")
	}
}

// Completion looks, and makes nothing.
func TestCompletionMakesNothing(t *testing.T) {
	s := newSmall(t)
	t.Chdir(s.platform.Root)
	for command, part := range map[string]string{
		"deploy": "shop", "images inspect": "probe", "programs verify": "registry", "node stop": "server1", "etcd replace": "server1",
	} {
		s.want(exitOK, "__complete "+command+" ", "")
		code, out, _ := s.run(append(append([]string{"__complete"}, strings.Fields(command)...), "")...)
		if code != exitOK || !strings.Contains(out, part) {
			t.Errorf("%s: %d, no %q in %q", command, code, part, out)
		}
	}
	for _, dir := range []string{s.state, s.cache} {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s was made: %v", dir, err)
		}
	}
}

// A mistake in the catalogue or on the command line takes nothing away from an environment.
func TestUpMistakenLeavesWhatIs(t *testing.T) {
	s := newSmall(t)
	s.up()
	for command, code := range map[string]int{"up --require nothing": exitUsage, "up --catalog .": exitUsage} {
		s.want(code, command)
		s.want(exitOK, "status", "running", "shop")
	}
	if calls := fmt.Sprint(s.cluster.Calls()); strings.Contains(calls, "Delete") {
		t.Errorf("the driver was asked to delete: %s", calls)
	}
	if err := os.Remove(filepath.Join(s.state, "small", "environment.json")); err != nil { // by hand
		t.Fatal(err)
	}
	s.want(exitUsage, "up --require nothing --bundle "+s.platform.Bundle)
	s.want(exitOK, "down", "is gone")
}
