package e2e

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// verbTimeout bounds every invocation. Builds do not count: they come before, see warm.
// It is longer than the longest check, so that a check says itself what did not come.
const verbTimeout = 12 * time.Minute

// warm compiles what is not in the cache yet, by an up that is not tested and that only
// the -timeout of go test bounds.
var warm = sync.OnceFunc(func() {
	e := &environment{name: "e2e-warm-" + strings.ToLower(rand.Text()[:5])}
	if limit := limits(); limit != "" {
		if err := e.write(filepath.Dir(stateDir), limit); err != nil {
			fmt.Println("e2e:", err)
			return
		}
	}
	var doctor struct{ Builds int }
	// Its exit status may tell that up would refuse; up says that better.
	r := e.invoke(context.Background(), nil, "doctor", "-o", "json")
	if json.Unmarshal([]byte(r.stdout), &doctor) != nil || doctor.Builds == 0 {
		return
	}
	fmt.Printf("e2e: %d programs are compiled first\n", doctor.Builds)
	for _, verb := range []string{"up", "down"} {
		cmd, _ := e.command(context.Background(), []string{verb, "-o", "json"})
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Printf("e2e: %s before the tests: %v\n%s\n", verb, err, last(string(out), 4000))
		}
	}
})

// environment is a platform as a person has it: a name, perhaps a file, and the CLI.
type environment struct {
	name       string
	file       string   // orrery.yaml; "" for the defaults
	ports      []string // on 127.0.0.1, after up
	components int      // that status has to list, after up
	catalog    string   // folder that holds infra/; "" for this repository
}

// newEnvironment names an environment that nobody else has, so that a search for its
// name finds only its own leftovers. yaml, when given, is the rest of its orrery.yaml.
// When the test ends, it is removed and the machine is searched.
func newEnvironment(t *testing.T, prefix, yaml string) *environment {
	t.Helper()
	if skipped != "" {
		t.Skip(skipped)
	}
	warm()
	e := &environment{name: "e2e-" + prefix + "-" + strings.ToLower(rand.Text()[:5])}
	if yaml != "" {
		if err := e.write(t.TempDir(), yaml); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if _, err := os.Stat(e.state()); errors.Is(err, os.ErrNotExist) {
			return
		}
		e.keepSupport(t)
		// t.Context is done by now.
		if r := e.invoke(context.Background(), nil, "down", "-o", "json"); r.code != 0 {
			t.Errorf("cleaning up: %v", r)
		}
		e.audit(t)
	})
	return e
}

// write makes the environment's orrery.yaml in dir.
func (e *environment) write(dir, rest string) error {
	e.file = filepath.Join(dir, e.name+".yaml")
	head := "apiVersion: orrery.dev/v1alpha1\nkind: Environment\nname: " + e.name + "\n"
	return os.WriteFile(e.file, []byte(head+rest), 0o600)
}

// limits is what the orrery.yaml of the big tests adds; "" is the whole platform.
func limits() string {
	if os.Getenv("ORRERY_E2E_CORE") == "1" {
		return core
	}
	return ""
}

func (e *environment) state(elem ...string) string {
	return filepath.Join(append([]string{stateDir, e.name}, elem...)...)
}

// result is one finished invocation.
type result struct {
	args           []string
	code           int
	stdout, stderr string
	took           time.Duration
	err            error // it could not be run, did not end or left its output open
}

func (r result) String() string {
	s := fmt.Sprintf("orrery %s: exit %d after %.1f s", strings.Join(r.args, " "), r.code, r.took.Seconds())
	if r.err != nil {
		s += ": " + r.err.Error()
	}
	return s + "\n--- stderr\n" + last(r.stderr, 4000) + "\n--- stdout\n" + last(r.stdout, 4000)
}

func last(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

func (e *environment) command(ctx context.Context, args []string) (*exec.Cmd, []string) {
	// kubectl wants our flags first and passes the rest on.
	flags := []string{"--env", e.name}
	if args[0] != "kubectl" {
		flags = append(flags, "--catalog", cmp.Or(e.catalog, repo))
		if e.file != "" {
			flags = append(flags, "--file", e.file)
		}
		if i := slices.Index(args, "--"); i >= 0 {
			args = slices.Insert(slices.Clone(args), i, flags...)
		} else {
			args = slices.Concat(args, flags)
		}
	} else {
		args = slices.Concat(args[:1], flags, args[1:])
	}
	cmd := exec.CommandContext(ctx, cli, args...)
	cmd.Dir = logDir // archives that up offers when it fails go here
	cmd.Env = append(os.Environ(), "ORRERY_STATE_DIR="+stateDir, "KUBECONFIG="+userKubeconfig())
	// What goes on after the CLI must not hold the pipes: `orrery up | tee log` would hang.
	cmd.WaitDelay = 5 * time.Second
	return cmd, args
}

func (e *environment) invoke(ctx context.Context, stdin io.Reader, args ...string) result {
	ctx, cancel := context.WithTimeout(ctx, verbTimeout)
	defer cancel()
	cmd, args := e.command(ctx, args)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	r := result{args: args, code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String(), took: time.Since(start)}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.err = err
	}
	return r
}

// try runs a verb and returns however it ended.
func (e *environment) try(t *testing.T, args ...string) result {
	t.Helper()
	r := e.invoke(t.Context(), nil, args...)
	if r.err != nil {
		t.Fatal(r)
	}
	return r
}

// run runs a verb that has to succeed and returns what it printed.
func (e *environment) run(t *testing.T, args ...string) string {
	t.Helper()
	return e.runWith(t, "", args...)
}

func (e *environment) runWith(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	r := e.invoke(t.Context(), strings.NewReader(stdin), args...)
	if r.code != 0 || r.err != nil {
		t.Fatal(r)
	}
	return r.stdout
}

// event is the part of a line of `-o json` that tests look at.
type event struct {
	Type, Step, Phase, State, Message, Error string

	line string
}

// events decodes a stream; each line must be one JSON object with a type.
func events(t *testing.T, stdout string) []event {
	t.Helper()
	var all []event
	for line := range strings.Lines(stdout) {
		e, err := parseEvent(line)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		all = append(all, e)
	}
	return all
}

func parseEvent(line string) (event, error) {
	e := event{line: line}
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		return e, fmt.Errorf("a line is not JSON: %w: %q", err, line)
	}
	if e.Type == "" {
		return e, fmt.Errorf("an event has no type: %s", line)
	}
	return e, nil
}

// decode reads the one JSON value that a verb printed.
func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("decode %T: %v in %s", v, err, last(text, 2000))
	}
	return v
}

// running is an invocation whose events are read while it runs.
type running struct {
	cmd    *exec.Cmd
	out    *bufio.Reader
	stderr *bytes.Buffer
	cancel context.CancelFunc
}

func (e *environment) start(t *testing.T, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), verbTimeout)
	cmd, _ := e.command(ctx, args)
	r := &running{cmd: cmd, stderr: &bytes.Buffer{}, cancel: cancel}
	cmd.Stderr = r.stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.out = bufio.NewReader(pipe)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	return r
}

// until reads events up to the one that is wanted.
func (r *running) until(t *testing.T, what string, wanted func(event) bool) {
	t.Helper()
	for {
		line, err := r.out.ReadString('\n')
		if err != nil {
			t.Fatalf("up ended before %s: %v\n%s", what, err, r.stderr)
		}
		e, err := parseEvent(line)
		if err != nil {
			t.Fatal(err)
		}
		if wanted(e) {
			return
		}
	}
}

// end sends a signal and returns the exit code, -1 when it was killed by it.
func (r *running) end(t *testing.T, sig syscall.Signal) (code int, rest string) {
	t.Helper()
	defer r.cancel()
	if err := r.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(r.out)
	err := r.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("waiting for up: %v", err)
	}
	return r.cmd.ProcessState.ExitCode(), string(b) + r.stderr.String()
}

// eventually polls until f returns nil. It fails with the last error, and says how long
// it took.
func eventually(t *testing.T, what string, timeout time.Duration, f func(context.Context) error) time.Duration {
	t.Helper()
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	last := errors.New("not looked at yet")
	for {
		err := f(ctx)
		if err == nil {
			return time.Since(start)
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %s: %v", what, timeout, last)
		case <-tick.C:
		}
	}
}

// keepSupport keeps an archive of a failed test.
func (e *environment) keepSupport(t *testing.T) {
	if !t.Failed() {
		return
	}
	file := filepath.Join(logDir, strings.ReplaceAll(t.Name(), "/", "_")+".tar.gz")
	if r := e.invoke(context.Background(), nil, "support", "--to", file); r.code != 0 {
		t.Logf("no support archive: %v", r)
		return
	}
	t.Logf("support archive: %s", file)
}
