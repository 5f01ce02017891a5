package smoke

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/check/jobline"
	"github.com/orrery-dev/orrery/internal/kube"
)

// jobKept is how long the cluster keeps a Job that a killed `verify` has left behind.
const jobKept = 5 * time.Minute

// ownChecks are the conditions of a component's own Job, one for each name that it prints.
// They share a run: the first that is awaited begins it, the last one sees to its end.
type ownChecks struct {
	env Env
	in  kube.RenderInput

	mu  sync.Mutex
	cur *jobRun
}

// register adds them to checks. A component's own name hides a generic one for that component.
func (o *ownChecks) register(checks map[string]func(string) []check.Condition) {
	component, job := o.in.Component.Name, o.in.Component.SmokeJob
	for _, name := range job.Checks {
		others := checks[name]
		checks[name] = func(of string) []check.Condition {
			if of == component {
				return []check.Condition{{
					Component: component,
					Name:      name,
					Timeout:   startTime + job.Time() + 2*cleanupTime,
					Probe:     func(ctx context.Context) check.Result { return o.await(ctx, name) },
				}}
			}
			if others != nil {
				return others(of)
			}
			return []check.Condition{{Component: of, Name: name, Probe: func(context.Context) check.Result {
				return check.Fail(fmt.Errorf("there is no check %q: it is one of component %s's own", name, component))
			}}}
		}
	}
}

// await returns when the Job has printed the check's line, or has ended without. Who leaves
// last waits until the Job is deleted, so that a program that ends then leaves nothing behind.
func (o *ownChecks) await(ctx context.Context, name string) check.Result {
	r := o.join(ctx, name)
	defer func() {
		if r.leave() {
			stop := context.AfterFunc(ctx, r.cancel)
			defer stop()
			<-r.done
		}
	}()
	select {
	case <-r.printed[name]:
		return r.results[name]
	case <-ctx.Done():
		return check.Fail(fmt.Errorf("the Job has not printed the result of %s: %w%s", name, context.Cause(ctx), r.tail()))
	}
}

// join takes part in the run, or begins one when this check has had its result from it.
func (o *ownChecks) join(ctx context.Context, name string) *jobRun {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cur == nil || !o.cur.enter(name) {
		o.cur = beginJob(ctx, o.env, o.in)
		o.cur.enter(name)
	}
	return o.cur
}

// jobRun is one Job from its creation to its deletion.
type jobRun struct {
	env    Env
	in     kube.RenderInput
	cancel context.CancelFunc
	done   chan struct{} // closed when the Job is deleted
	// printed has a channel for each check, closed when results has its result.
	printed map[string]chan struct{}
	results map[string]check.Result

	mu      sync.Mutex
	awaited map[string]bool
	waiting int
	lines   jobline.Lines
}

// beginJob starts a run that outlives whoever began it, as long as somebody waits for it.
func beginJob(ctx context.Context, env Env, in kube.RenderInput) *jobRun {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &jobRun{
		env: env, in: in, cancel: cancel, done: make(chan struct{}),
		printed: map[string]chan struct{}{}, results: map[string]check.Result{}, awaited: map[string]bool{},
	}
	for _, name := range in.Component.SmokeJob.Checks {
		r.printed[name] = make(chan struct{})
	}
	r.lines.Open = slices.Clone(in.Component.SmokeJob.Checks)
	go func() {
		defer close(r.done)
		defer cancel()
		r.finish(r.run(ctx))
	}()
	return r
}

func (r *jobRun) enter(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.awaited[name] {
		return false
	}
	r.awaited[name] = true
	r.waiting++
	return true
}

// leave says whether nobody else waits.
func (r *jobRun) leave() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting--
	return r.waiting == 0
}

func (r *jobRun) tail() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lines.Tail()
}

// deliver gives results to those who wait for them.
func (r *jobRun) deliver(results map[string]check.Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, result := range results {
		if _, ok := r.results[name]; !ok {
			r.results[name] = result
			close(r.printed[name])
		}
	}
}

// finish gives every check that has no result the one of the whole Job.
func (r *jobRun) finish(of check.Result) {
	rest := map[string]check.Result{}
	for name := range r.printed {
		rest[name] = of
	}
	r.deliver(rest)
}

// run makes the Job, reads what it prints and deletes it. It returns the result of all checks
// that have none of their own.
func (r *jobRun) run(ctx context.Context) (result check.Result) {
	job, err := kube.RenderSmokeJob(r.in)
	if err != nil {
		return check.Fail(err)
	}
	if image := imageOf(job); !strings.Contains(image, "@") {
		return check.Skip("image %s is not there: it was neither built nor fetched; `orrery deploy %s` does so", image, r.in.Component.Name)
	}
	s := &sandbox{env: r.env, check: r.in.Component.Name, id: token(4)}
	s.own(job, r.in.Component.SmokeJob.Time())
	defer func() {
		if err := r.remove(ctx, s, job.GetNamespace()); err != nil {
			result = check.Fail(errors.Join(result.Err, fmt.Errorf("clean up after the check: %w", err)))
		}
	}()
	if err := s.create(ctx, job.Object); err != nil {
		return check.Fail(fmt.Errorf("make the Job: %w", err))
	}
	pod, skip, err := s.jobStarted(ctx, job)
	if err != nil {
		return check.Fail(err)
	}
	if skip != "" {
		return check.Skip("%s", skip)
	}
	return r.read(ctx, pod)
}

// own makes the rendered Job that of this run: a name of its own, one pod that is not tried
// again, and an end that the cluster sees to should nobody else.
func (s *sandbox) own(job *unstructured.Unstructured, deadline time.Duration) {
	check := s.check[:min(len(s.check), 30)] // the name of the pod is longer, and a label
	job.SetName("smoke-" + check + "-" + s.id)
	for field, value := range map[string]any{
		"backoffLimit": int64(0), "completions": int64(1), "parallelism": int64(1), "suspend": false,
		"activeDeadlineSeconds":   int64((startTime + deadline + cleanupTime).Seconds()),
		"ttlSecondsAfterFinished": int64(jobKept.Seconds()),
	} {
		_ = unstructured.SetNestedField(job.Object, value, "spec", field) // rendering has seen that spec is a mapping
	}
	_ = unstructured.SetNestedField(job.Object, "Never", "spec", "template", "spec", "restartPolicy")
	// Not the label of all that checks make, which gives the pods of namespace apps ways into the network.
	_ = unstructured.SetNestedField(job.Object, s.id, "spec", "template", "metadata", "labels", runLabel)
}

func imageOf(job *unstructured.Unstructured) string {
	containers, _, _ := unstructured.NestedSlice(job.Object, "spec", "template", "spec", "containers")
	image, _ := containers[0].(map[string]any)["image"].(string)
	return image
}

// remove deletes the Job and its pods, also when ctx has ended.
func (r *jobRun) remove(ctx context.Context, s *sandbox, namespace string) error {
	errs := []error{s.cleanup(ctx)}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	// The garbage collector would delete them some seconds later; what still runs ends now.
	pods, err := r.env.Client.List(ctx, "v1", "Pod", namespace, runLabel+"="+s.id)
	errs = append(errs, err)
	for _, p := range pods {
		if err := r.env.Client.Delete(ctx, "v1", "Pod", namespace, p.GetName(), 1); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// jobPod is the pod of this run's Job; nil while there is none.
func (s *sandbox) jobPod(ctx context.Context, namespace string) (*unstructured.Unstructured, error) {
	pods, err := s.env.Client.List(ctx, "v1", "Pod", namespace, runLabel+"="+s.id)
	if err != nil || len(pods) == 0 {
		return nil, err
	}
	return &pods[0], nil
}

// jobStarted waits until the container runs or has ended; skip says why it cannot.
func (s *sandbox) jobStarted(ctx context.Context, job *unstructured.Unstructured) (pod *unstructured.Unstructured, skip string, err error) {
	err = until(ctx, startTime, func() error {
		if pod, err = s.jobPod(ctx, job.GetNamespace()); err != nil {
			return err
		}
		if pod == nil {
			return fmt.Errorf("the Job has no pod yet%s", s.jobTrouble(ctx, job))
		}
		state := containerState(pod)
		if reason, _, _ := unstructured.NestedString(state, "waiting", "reason"); slices.Contains([]string{"ImagePullBackOff",
			"ErrImageNeverPull"}, reason) {
			skip = fmt.Sprintf("image %s cannot be pulled: %s", imageOf(job), trouble(pod))
			return nil
		}
		if state["running"] == nil && state["terminated"] == nil {
			return fmt.Errorf("pod %s is %s: %s", pod.GetName(), strings.ToLower(text(pod, "status", "phase")), trouble(pod))
		}
		return nil
	})
	return pod, skip, err
}

// jobTrouble is what the Job's events say, such as that its pods are refused.
func (s *sandbox) jobTrouble(ctx context.Context, job *unstructured.Unstructured) string {
	events, err := s.env.Client.List(ctx, "v1", "Event", job.GetNamespace(), "")
	if err != nil {
		return ""
	}
	for _, e := range events {
		if text(&e, "involvedObject", "name") == job.GetName() && text(&e, "type") == "Warning" {
			return ": " + jobline.Clean(text(&e, "message"), jobline.MaxDetail)
		}
	}
	return ""
}

// containerState is the state of the pod's one container.
func containerState(pod *unstructured.Unstructured) map[string]any {
	statuses, _, _ := unstructured.NestedSlice(pod.Object, "status", "containerStatuses")
	if len(statuses) == 0 {
		return nil
	}
	status, _ := statuses[0].(map[string]any)
	state, _ := status["state"].(map[string]any)
	return state
}

// read follows the container until it has ended or its time is over.
func (r *jobRun) read(ctx context.Context, pod *unstructured.Unstructured) (result check.Result) {
	deadline := r.in.Component.SmokeJob.Time()
	ctx, cancel := context.WithTimeoutCause(ctx, deadline, fmt.Errorf("its deadline of %s has passed", deadline))
	defer cancel()
	err := until(ctx, deadline, func() error {
		p, err := r.env.Client.Get(ctx, "v1", "Pod", pod.GetNamespace(), pod.GetName())
		switch {
		case apierrors.IsNotFound(err):
			return check.Final(fmt.Errorf("its pod %s is gone: somebody deleted it, or its node was lost", pod.GetName()))
		case err != nil:
			return err
		}
		// Looked at before the lines are read: then those are all there are.
		end, ended := containerState(p)["terminated"].(map[string]any)
		if err := r.follow(ctx, p, ended); err != nil {
			return err
		}
		if !ended {
			return errors.New("it still runs")
		}
		result = r.judge(end)
		return nil
	})
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return check.Fail(fmt.Errorf("the container of the check: %w%s", err, r.tail()))
	}
	return result
}

// follow reads the lines from the beginning and takes those that are new. The end of what
// can be read is the end of the container, or of the connection.
func (r *jobRun) follow(ctx context.Context, pod *unstructured.Unstructured, ended bool) error {
	containers, _, _ := unstructured.NestedSlice(pod.Object, "spec", "containers")
	name, _ := containers[0].(map[string]any)["name"].(string)
	stream, err := r.env.Client.FollowLogs(ctx, pod.GetNamespace(), pod.GetName(), name)
	if err != nil {
		return err
	}
	defer stream.Close()
	lines := bufio.NewReaderSize(io.LimitReader(stream, jobline.MaxPrinted+1), jobline.MaxLine)
	for n, size := 0, 0; ; n++ {
		line, err := readLine(lines, &size)
		if size > jobline.MaxPrinted || n > jobline.MaxLines {
			return check.Final(fmt.Errorf("it prints more than %d lines or %d KiB", jobline.MaxLines, jobline.MaxPrinted>>10))
		}
		whole := err == nil || ended && errors.Is(err, io.EOF) && len(line) > 0
		if whole {
			if err := r.take(n, line); err != nil {
				return check.Final(err)
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// readLine returns a line without its end; of one that is too long it returns the beginning.
func readLine(lines *bufio.Reader, size *int) (string, error) {
	part, err := lines.ReadSlice('\n')
	line := strings.Clone(strings.TrimRight(string(part), "\r\n"))
	*size += len(part)
	for errors.Is(err, bufio.ErrBufferFull) {
		part, err = lines.ReadSlice('\n')
		*size += len(part)
	}
	return line, err
}

// take gives the line with the number n to whom it concerns, once.
func (r *jobRun) take(n int, line string) error {
	r.mu.Lock()
	name, result, err := "", check.Result{}, error(nil)
	if n == r.lines.Seen {
		name, result, err = r.lines.Take(line)
	}
	r.mu.Unlock()
	if err == nil && name != "" {
		r.deliver(map[string]check.Result{name: result})
	}
	return err
}

// judge is the result of those that have none when the container has ended.
func (r *jobRun) judge(end map[string]any) check.Result {
	r.mu.Lock()
	status, _ := end["exitCode"].(int64)
	reason, _ := end["reason"].(string)
	how := fmt.Sprintf("the container of the check ended with exit status %d (%s)", status, reason)
	tail, last, failed := r.lines.Tail(), r.lines.Last, r.lines.Failed
	missing := strings.Join(r.lines.Open, ", ")
	r.mu.Unlock()
	switch {
	case missing != "":
		return check.Fail(fmt.Errorf("%s and did not print the result of %s%s", how, missing, tail))
	case status != 0 && !failed:
		return check.Fail(fmt.Errorf("%s, although every check it printed is well%s", how, tail))
	}
	return last // no other is without a result
}
