package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// bare is a machine that has nothing: no Go, no compiler, no module cache, no home, no
// network but its own loopback, no repository; only the program and its own state and cache.
type bare struct {
	*environment
	pid        int // of a process in the network namespace
	path, home string
}

func newBare(t *testing.T, e *environment) *bare {
	t.Helper()
	for _, program := range []string{"unshare", "nsenter", "ip"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%v: needed to cut the network off", err)
		}
	}
	b := &bare{environment: e, path: filepath.Join(t.TempDir(), "bin"), home: filepath.Join(t.TempDir(), "work")}
	for _, dir := range []string{b.path, b.home} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		entries, _ := os.ReadDir(dir)
		for _, p := range entries {
			if name := p.Name(); !strings.HasPrefix(name, "go") && !strings.Contains(name, "gcc") && !slices.Contains([]string{"cc", "ld", "as", "git"}, name) {
				_ = os.Symlink(filepath.Join(dir, name), filepath.Join(b.path, name)) // the first wins, as on a PATH
			}
		}
	}
	holder := exec.Command("unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 3600")
	pipe, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = holder.Process.Kill(); _ = holder.Wait() })
	if line, err := bufio.NewReader(pipe).ReadString('\n'); err != nil || line != "up\n" {
		t.Fatalf("a namespace without network: %q, %v", line, err)
	}
	b.pid = holder.Process.Pid
	return b
}

// on runs a verb there, and returns what it printed and the most memory it had, in MiB.
func (b *bare) on(t *testing.T, args ...string) (result, int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), verbTimeout)
	defer cancel()
	enter := []string{"--target", fmt.Sprint(b.pid), "--net", cli}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.Dir = b.home
	cmd.Env = []string{
		"PATH=" + b.path, "HOME=" + filepath.Join(b.home, "no-home"), "GOPROXY=off", "GOFLAGS=-mod=mod",
		"GOMODCACHE=/nowhere/mod", "GOCACHE=/nowhere/build", "ORRERY_STATE_DIR=" + stateDir, "ORRERY_CACHE_DIR=" + filepath.Join(b.home, "cache"),
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	r := result{args: args, code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String(), took: cmd.ProcessState.UserTime()}
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		r.err = err
	}
	usage, _ := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return r, usage.Maxrss >> 10
}

func (b *bare) must(t *testing.T, args ...string) string {
	t.Helper()
	r, _ := b.on(t, args...)
	if r.code != 0 || r.err != nil {
		t.Fatal(r)
	}
	return r.stdout
}

// TestBundle carries a platform to a machine that has nothing: a small one, or, with
// ORRERY_E2E_BUNDLE=full, three servers and two agents with all components.
func TestBundle(t *testing.T) {
	size, components := "servers: 1\nagents: 0\n", "components: [coredns, local-path]\n"
	if os.Getenv("ORRERY_E2E_BUNDLE") == "full" {
		size, components = "servers: 3\nagents: 2\n", ""
	}
	if limits() != "" {
		size += "network: {plugin: ptp}\n"
	}
	e := newEnvironment(t, "bundle", size+components)
	dir := t.TempDir()
	file := filepath.Join(dir, "small.orrery")
	t.Setenv("ORRERY_KEY_PASSWORD", "of this test") // or the kernel's keyring would keep one
	made := decode[struct {
		Digest, Key    string
		Size, Unpacked int64
		Seconds        float64
	}](t, lastJSON(e.run(t, "bundle", "create", file, "-o", "json")))
	t.Logf("create: %d MB out of %d MB in %.1f s", made.Size/1e6, made.Unpacked/1e6, made.Seconds)

	there := newBare(t, e)
	name := filepath.Join(there.home, "orrery.yaml")
	if err := os.WriteFile(name, []byte("apiVersion: orrery.dev/v1alpha1\nkind: Environment\nname: "+e.name+"\n"+size), 0o600); err != nil {
		t.Fatal(err)
	}
	// The machine's own key is in the state folder, which the two share here.
	if err := os.Rename(filepath.Join(stateDir, ".signing"), filepath.Join(dir, "signing")); err != nil {
		t.Fatal(err)
	}
	if r, _ := there.on(t, "up"); r.code != 2 || !strings.Contains(r.stderr, "no catalogue found") {
		t.Errorf("without a bundle: %v", r)
	}
	if r, _ := there.on(t, "bundle", "import", file); r.code != 3 || !strings.Contains(r.stderr, made.Key) || !strings.Contains(r.stderr, "--key") {
		t.Errorf("a key that nobody trusts: %v", r)
	}
	imported, rss := there.on(t, "bundle", "import", file, "--key", file+".pub", "-o", "json")
	if imported.code != 0 {
		t.Fatal(imported)
	}
	took := decode[struct {
		Written int64
		Seconds float64
	}](t, lastJSON(imported.stdout))
	t.Logf("import: %d MB in %.1f s, at most %d MiB of memory", took.Written/1e6, took.Seconds, rss)
	if rss > 300 {
		t.Errorf("the import took %d MiB of memory", rss)
	}
	t.Cleanup(func() {
		if _, err := os.Stat(e.state()); err == nil {
			t.Log(there.on(t, "down"))
		}
	})
	up, _ := there.on(t, "up", "--bundle", file, "--key", file+".pub", "-o", "json")
	if up.code != 0 {
		t.Fatal(up)
	}
	sum := decode[struct {
		Seconds map[string]float64
		Verify  struct{ Passed, Failed, Skipped int }
	}](t, lastJSON(up.stdout))
	// Network policies are skipped where the network enforces none; of all components also
	// those whose image only a registry has.
	if sum.Verify.Failed > 0 || components != "" && sum.Verify.Skipped > 1 || sum.Verify.Passed < 5 {
		t.Errorf("verified: %+v", sum.Verify)
	}
	t.Logf("up --bundle: %v, %d checks passed", sum.Seconds, sum.Verify.Passed)
	for _, ev := range events(t, up.stdout) {
		if strings.HasPrefix(ev.Step, "build/") && ev.State != "cached" {
			t.Errorf("something was built: %s", ev.line)
		}
	}

	// Nothing of it needs the file, Go or a repository later.
	if err := os.Rename(file, file+".away"); err != nil {
		t.Fatal(err)
	}
	there.must(t, "up")
	there.must(t, "status")
	there.must(t, "deploy", "coredns")
	there.must(t, "images", "verify")
	for verb, want := range map[string]string{"doctor": "Everything is compiled already", "images list": "coredns", "images sbom coredns": "CycloneDX", "images provenance coredns": "slsa.dev/provenance",
		"images inspect coredns": "/coredns", "programs list": "kubernetes", "programs verify": " as they should be, 0 not", "programs sbom runc": "libseccomp-dev", "programs provenance kubernetes": "build-type/program/v1"} {
		if out := there.must(t, strings.Fields(verb)...); !strings.Contains(out, want) {
			t.Errorf("%s does not say %q:\n%s", verb, want, last(out, 1000))
		}
	}
	if r, _ := there.on(t, "lock", "--check"); r.code != 2 || !strings.Contains(r.stderr, "made from a bundle") {
		t.Errorf("lock without source: %v", r)
	}
	if out := there.must(t, "images", "prune"); !strings.Contains(out, " 0 bundles") {
		t.Errorf("a bundle in use was pruned: %s", out)
	}
	there.must(t, "stop")
	there.must(t, "start")
	there.must(t, "verify")
	there.must(t, "down")
	e.audit(t)
	if out := there.must(t, "images", "prune"); !strings.Contains(out, "1 bundles") {
		t.Errorf("a bundle that nothing needs was kept: %s", out)
	}
}

// lastJSON is the last line: what comes after events.
func lastJSON(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return lines[len(lines)-1]
}
