package smoke

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/check/jobline"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/mirror"
)

const jobManifest = `apiVersion: batch/v1
kind: Job
metadata: {name: check}
spec:
  backoffLimit: 6
  template:
    spec:
      automountServiceAccountToken: false
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: check
          image: registry.orrery.internal/hello
          resources: {limits: {cpu: 100m, memory: 32Mi}}
          securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
`

// jobEnv is an environment with a component hello, which brings the checks a and b.
func jobEnv(t *testing.T) (*fakeAPI, Env) {
	t.Helper()
	f, env := newFake(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"kustomization.yaml": "resources: [job.yaml]\n", "job.yaml": jobManifest} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env.Jobs = []kube.RenderInput{{
		Component: catalog.Component{
			Name: "hello", Namespace: namespace, Dir: dir, Images: []catalog.Image{{Name: "hello", Version: "v1"}},
			SmokeJob: &catalog.SmokeJob{Kustomize: ".", Checks: []string{"a", "b"}, Deadline: "20s"},
		},
		Images: map[string]string{"hello": mirror.Host + "/hello:v1@sha256:" + strings.Repeat("ab", 32)},
	}}
	return f, env
}

// both awaits the checks side by side, as verify does.
func both(ctx context.Context, env Env) map[string]check.Result {
	results, mu, all := map[string]check.Result{}, sync.Mutex{}, Checks(env)
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b"} {
		wg.Go(func() {
			r := check.Await(ctx, all[name]("hello")[0], nil)
			mu.Lock()
			defer mu.Unlock()
			results[name] = r
		})
	}
	wg.Wait()
	return results
}

// gone wants no Job and no pod of one.
func (f *fakeAPI) gone(t *testing.T) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, o := range f.objects {
		if o.GetKind() == "Job" || o.GetKind() == "Pod" {
			t.Errorf("left behind: %s", k)
		}
	}
}

const (
	lineA = `{"name":"a","state":"succeeded","detail":"a is well","seconds":1.5}` + "\n"
	lineB = `{"name":"b","state":"succeeded","detail":"b is well","seconds":2}` + "\n"
)

// TestJob: whatever the Job of a component does, each of its checks has its own result, and
// nothing is left.
func TestJob(t *testing.T) {
	prints := func(text string) func(*fakeAPI, *Env) {
		return func(f *fakeAPI, _ *Env) { f.job.logs = func(int) io.Reader { return strings.NewReader(text) } }
	}
	const well, bad, skip, wait = check.Succeeded, check.Failed, check.Skipped, check.Failed
	for _, test := range []struct {
		name   string
		change func(*fakeAPI, *Env)
		a, b   check.State
		says   []string
		not    string
	}{
		{"well", prints("starting\n" + lineA + lineB), well, well, []string{"a is well", "b is well"}, "starting"},
		{"no end of the last line", prints(lineA + strings.TrimSpace(lineB)), well, well, []string{"b is well"}, ""},
		{"skipped", prints(lineA + `{"name":"b","state":"skipped","detail":"no replica"}` + "\n"), well, skip, []string{"no replica"}, ""},
		{"one fails, with what was printed", prints("looking\n" + `{"name":"a","state":"failed","detail":"3 are lost"}` + "\n" + lineB), bad,
			well, []string{"3 are lost; it also printed: looking"}, ""},
		{"one is not printed", prints(lineA + "panic: oh\n"), well, bad,
			[]string{"exit status 0 (Completed) and did not print the result of b; it also printed: panic: oh"}, ""},
		{"exit status after all is well", func(f *fakeAPI, e *Env) { prints(lineA+lineB)(f, e); f.job.exit = 1 }, well, bad,
			[]string{"exit status 1 (Completed), although every check"}, ""},
		{"exit status of a failure", func(f *fakeAPI, e *Env) {
			prints(`{"name":"a","state":"failed","detail":"bad"}`+"\n"+lineB)(f, e)
			f.job.exit = 1
		}, bad, well, []string{"bad", "b is well"}, ""},
		{"unknown field", prints(`{"name":"a","state":"succeeded","took":1}` + "\n" + lineB), bad, bad, []string{`unknown field "took"`}, ""},
		{"unknown state", prints(`{"name":"a","state":"passed"}` + "\n"), bad, bad,
			[]string{`state is "passed"; must be succeeded, failed or skipped`}, ""},
		{"not declared", prints(lineA + `{"name":"c","state":"succeeded"}` + "\n"), well, bad,
			[]string{`"c" is printed twice, or not among the checks of component.yaml`}, ""},
		{"twice", prints(lineA + lineA + lineB), well, bad, []string{`"a" is printed twice`}, ""},
		{"failure without a reason", prints(`{"name":"a","state":"failed"}` + "\n"), bad, bad, []string{"detail is missing"}, ""},
		{"two objects on a line", prints(strings.TrimSpace(lineA) + lineB), bad, bad, []string{"something follows the object"}, ""},
		{"a line without end", prints(lineA + "{" + strings.Repeat("x", 3*jobline.MaxLine)), well, bad,
			[]string{"it is longer than 4096 bytes"}, ""},
		{"too much", prints(strings.Repeat(strings.Repeat("x", 100)+"\n", 3*jobline.MaxLines)), bad, bad,
			[]string{"it prints more than 2000 lines"}, ""},
		{"too much on one line", prints(strings.Repeat("x", 2*jobline.MaxPrinted)), bad, bad, []string{"or 1024 KiB"}, ""},
		{"escape sequences", prints("\x1b[2J\r\x07junk\n" + `{"name":"a","state":"failed","detail":"\u001b[31mred\nline"}` + "\n" + lineB),
			bad, well, []string{"[31mred line; it also printed: [2J  junk"}, "\x1b"},
		{"the connection breaks", func(f *fakeAPI, e *Env) {
			f.job.logs = func(call int) io.Reader {
				if call == 1 {
					return io.MultiReader(strings.NewReader("one\n"+lineA+lineB[:20]), broken{})
				}
				return strings.NewReader("one\n" + lineA + lineB)
			}
		}, well, well, []string{"a is well", "b is well"}, ""},
		{"the image is not to be had", func(f *fakeAPI, _ *Env) {
			f.job.waiting = map[string]any{"reason": "ImagePullBackOff", "message": "not found"}
		}, skip, skip, []string{"cannot be pulled", "not found"}, ""},
		{"the image was not built", func(_ *fakeAPI, e *Env) { e.Jobs[0].Images["hello"] = mirror.Host + "/hello:v1" }, skip, skip,
			[]string{"was neither built nor fetched; `orrery deploy hello`"}, ""},
		{"it does not start", func(f *fakeAPI, _ *Env) {
			f.job.waiting = map[string]any{"reason": "CreateContainerConfigError", "message": `secret "x" not found`}
		}, wait, wait, []string{`secret "x" not found`}, ""},
		{"its pod is refused", func(f *fakeAPI, _ *Env) { f.job.podless = true }, bad, bad,
			[]string{"the Job has no pod yet: pods are forbidden: violates PodSecurity"}, ""},
		{"the Job is refused", func(f *fakeAPI, _ *Env) {
			f.admit = func(*unstructured.Unstructured) error { return errTest }
		}, bad, bad, []string{"make the Job: " + errTest.Error()}, ""},
		{"its pod is gone", func(f *fakeAPI, e *Env) { prints(lineA)(f, e); f.job.vanishes = true }, bad, bad,
			[]string{"somebody deleted it, or its node was lost"}, ""},
		{"it never ends", func(f *fakeAPI, _ *Env) {
			f.job.ends = false
			f.job.logs = func(int) io.Reader { r, w := io.Pipe(); go io.WriteString(w, "still here\n"+lineA+lineB); return r }
		}, well, bad, []string{"its deadline of 20s has passed; it also printed: still here"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, env := jobEnv(t)
				f.job.ends = true
				test.change(f, &env)
				got := both(t.Context(), env)
				if got["a"].State != test.a || got["b"].State != test.b {
					t.Errorf("a: %s (%s), want %s; b: %s (%s), want %s", got["a"].State, got["a"].Message, test.a, got["b"].State, got["b"].Message,
						test.b)
				}
				all := got["a"].Message + "\n" + got["b"].Message
				for _, says := range test.says {
					if !strings.Contains(all, says) {
						t.Errorf("%q does not say %q", all, says)
					}
				}
				if test.not != "" && strings.Contains(all, test.not) {
					t.Errorf("%q says %q", all, test.not)
				}
				if test.name == "well" && (got["a"].Took != 1500*time.Millisecond || got["b"].Took != 2*time.Second) {
					t.Errorf("took %s and %s", got["a"].Took, got["b"].Took)
				}
				f.gone(t)
			})
		})
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// What a Job has printed is known before it ends; a second await is a second run.
func TestJobStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, env := jobEnv(t)
		out, in := io.Pipe()
		f.job.logs = func(call int) io.Reader {
			if call == 1 {
				return out
			}
			return strings.NewReader(lineA + lineB)
		}
		all := Checks(env)
		a, b := all["a"]("hello")[0], all["b"]("hello")[0]
		second := make(chan check.Result, 1)
		go func() { second <- check.Await(t.Context(), b, nil) }()
		synctest.Wait()
		io.WriteString(in, lineA)
		if r := check.Await(t.Context(), a, nil); r.State != check.Succeeded {
			t.Errorf("a: %+v", r)
		}
		select {
		case r := <-second:
			t.Errorf("b has a result before it was printed: %+v", r)
		default:
		}
		io.WriteString(in, lineB)
		f.mu.Lock()
		for _, o := range f.objects {
			if o.GetKind() == "Pod" {
				state := map[string]any{"terminated": map[string]any{"exitCode": int64(0)}}
				o.Object["status"] = map[string]any{"containerStatuses": []any{map[string]any{"state": state}}}
			}
		}
		f.mu.Unlock()
		in.Close()
		if r := <-second; r.State != check.Succeeded {
			t.Errorf("b: %+v", r)
		}
		f.gone(t)
		f.job.ends = true
		if r := check.Await(t.Context(), a, nil); r.State != check.Succeeded || len(f.ever) != 2 {
			t.Errorf("awaited again: %+v, made %v", r, f.ever)
		}
		f.gone(t)
	})
}

// Ctrl-C ends every check, and only when the Job is deleted.
func TestJobInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, env := jobEnv(t)
		f.job.logs = func(int) io.Reader { r, w := io.Pipe(); go io.WriteString(w, "waiting\n"); return r }
		interrupt := errors.New("interrupted")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(3*time.Second, func() { cancel(interrupt) })
		start := time.Now()
		for name, r := range both(ctx, env) {
			if r.State != check.Failed || !errors.Is(r.Err, interrupt) {
				t.Errorf("%s: %+v", name, r)
			}
		}
		if took := time.Since(start); took > 4*time.Second {
			t.Errorf("took %s", took)
		}
		f.gone(t)
	})
}

// TestJobObject: the run is its own, and ends by itself when nobody is left to delete it.
func TestJobObject(t *testing.T) {
	f, env := jobEnv(t)
	f.job.ends = true
	f.job.logs = func(int) io.Reader { return strings.NewReader(lineA + lineB) }
	var job *unstructured.Unstructured
	f.admit = func(o *unstructured.Unstructured) error { job = o.DeepCopy(); return nil }
	both(t.Context(), env)
	number := func(field string) int64 { n, _, _ := unstructured.NestedInt64(job.Object, "spec", field); return n }
	if number("backoffLimit") != 0 || number("ttlSecondsAfterFinished") != 300 || number("activeDeadlineSeconds") != 155 || text(job,
		"spec", "template", "spec", "restartPolicy") != "Never" {
		t.Errorf("spec = %v", job.Object["spec"])
	}
	labels, _, _ := unstructured.NestedStringMap(job.Object, "spec", "template", "metadata", "labels")
	if labels[runLabel] == "" || labels[label] != "" {
		t.Errorf("labels of the pod = %v; those of every check open ways into the network", labels)
	}
	own := job.GetLabels()
	if own[label] != "hello" || own[kube.LabelManagedBy] == "" || own[kube.LabelComponent] != "hello" || !strings.HasPrefix(job.GetName(), "smoke-hello-") {
		t.Errorf("Job %s with %v", job.GetName(), own)
	}
}

// A name is the component's own first; somebody else's is nobody's.
func TestJobNames(t *testing.T) {
	f, env := jobEnv(t)
	f.job.ends = true
	f.job.logs = func(int) io.Reader { return strings.NewReader(strings.ReplaceAll(lineA, `"a"`, `"dns"`) + lineB) }
	env.Jobs[0].Component.SmokeJob.Checks = []string{"dns", "b"}
	all := Checks(env)
	if r := check.Await(t.Context(), all["dns"]("hello")[0], nil); r.Message != "a is well" {
		t.Errorf("own: %+v", r)
	}
	if c := all["dns"]("coredns"); len(c) != 1 || c[0].Timeout != checkTime {
		t.Errorf("generic: %+v", c)
	}
	if r := check.Await(t.Context(), all["b"]("coredns")[0], nil); r.State != check.Failed || !strings.Contains(r.Message,
		"it is one of component hello's own") {
		t.Errorf("somebody else's: %+v", r)
	}
}
