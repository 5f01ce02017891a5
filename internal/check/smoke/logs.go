package smoke

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/observe"
)

const (
	// arrival is how long what was taken may be on its way when the platform is only just
	// coming back: with a gateway that has its last names and connections from before, after
	// the longest of its timeouts and pauses. What is taken is owed, so this waits for it,
	// and no longer than it takes.
	arrival = 75 * time.Second
	// lineDelay is how long a line may take from the pod that writes it to Loki otherwise.
	lineDelay = 10 * time.Second
	// lineTries is how many lines are written until one is there in that time.
	lineTries = 4
)

// logs: a line that a pod writes is found in Loki soon after, under the names of its pod,
// and with the trace that it names.
func logs(ctx context.Context, env Env) check.Result {
	if r := lacks(env, "loki"); r != nil {
		return *r
	}
	loki := observe.NewLoki(env.Client)
	if r := answers(func() error { _, err := loki.Labels(ctx, observe.Last(time.Minute)); return err }); r != nil {
		return *r
	}
	return inSandbox(ctx, env, "logs", func(s *sandbox) (string, error) {
		var slow []string
		for n := range lineTries {
			node, delay, err := writeLine(ctx, s, loki, fmt.Sprintf("writer%d", n))
			switch {
			case err != nil:
				return "", err
			case delay <= lineDelay:
				return fmt.Sprintf("a line from a pod on %s is in Loki after %.1f s, with its pod's names and its trace", node, delay.Seconds()), nil
			}
			// None is lost, but this one was late. Where the platform is only just coming back,
			// what is written now is in time.
			slow = append(slow, fmt.Sprintf("%.0f s", delay.Seconds()))
		}
		return "", fmt.Errorf("lines are in Loki after %s, and not within %s", strings.Join(slow, ", "), lineDelay)
	})
}

// writeLine has a pod write a line and finds it, as it has to be, in Loki. It returns where
// that pod was and how long the line took.
func writeLine(ctx context.Context, s *sandbox, loki observe.Loki, part string) (node string, delay time.Duration, err error) {
	word, trace, span := "orrery-"+token(8), token(16), token(8)
	wrote, err := s.print(ctx, part, jsonLine(word, trace, span))
	if err != nil {
		return "", 0, err
	}
	line, delay, err := findLine(ctx, loki, wrote, word)
	if err != nil {
		return "", 0, err
	}
	var wrong []string
	for label, want := range map[string]string{
		"k8s_namespace_name": namespace, "k8s_pod_name": wrote.pod, "k8s_container_name": "probe",
		"k8s_node_name": wrote.node, "service_name": "probe", "trace_id": trace, "span_id": span,
	} {
		if got := line.Labels[label]; got != want {
			wrong = append(wrong, fmt.Sprintf("%s=%q, want %q", label, got, want))
		}
	}
	if wrong != nil {
		slices.Sort(wrong)
		return "", 0, fmt.Errorf("the line is in Loki, but with %s", strings.Join(wrong, "; "))
	}
	return wrote.node, delay, nil
}

// jsonLine is a line as a service of this platform logs it: slog's JSON with the trace.
func jsonLine(message, trace, span string) string {
	return fmt.Sprintf(`{"level":"INFO","msg":%q,"trace_id":%q,"span_id":%q}`, message, trace, span)
}

// written is a line that a pod has written.
type written struct {
	pod, node string
	since     time.Time // the pod was made no earlier
}

// print runs a pod that writes text to its standard output and ends.
func (s *sandbox) print(ctx context.Context, part, text_ string) (written, error) {
	w := written{since: time.Now().Add(-time.Minute)} // the node's clock may be behind
	var err error
	if w.pod, err = s.pod(ctx, pod{part: part, command: []string{"print", text_}, once: true}); err != nil {
		return w, err
	}
	p, err := s.started(ctx, w.pod)
	if err != nil {
		return w, fmt.Errorf("write a line: %w", err)
	}
	w.node = text(p, "spec", "nodeName")
	return w, nil
}

// findLine waits for a line that contains word, and says how long after it was written it
// could be read.
func findLine(ctx context.Context, loki observe.Loki, w written, word string) (observe.Line, time.Duration, error) {
	var found observe.Line
	err := until(ctx, arrival, func() error {
		now := time.Now()
		query := fmt.Sprintf("{k8s_namespace_name=%q} |= %q", namespace, word)
		lines, err := loki.Query(ctx, query, observe.Range{Start: w.since, End: now.Add(time.Minute)}, 10, observe.NewestFirst)
		switch {
		case errors.Is(err, observe.ErrQuery):
			return check.Final(err)
		case err != nil:
			return err
		case len(lines) == 0:
			return fmt.Errorf("the line that pod %s wrote on %s is not in Loki; look at the collector there:"+
				" 'orrery kubectl -n observability-agents logs -l app.kubernetes.io/name=otel-agent'", w.pod, w.node)
		case len(lines) > 1:
			return check.Final(fmt.Errorf("one line was written and Loki has %d of it", len(lines)))
		}
		found = lines[0]
		return nil
	})
	return found, max(0, time.Since(found.Time)), err
}

// lacks is the reason to skip a check, when this environment has no such component.
func lacks(env Env, component string) *check.Result {
	if slices.Contains(env.Components, component) {
		return nil
	}
	r := check.Skip("this environment has no component %s", component)
	return &r
}

// answers is why a check has to wait, or nil when a service answers. Components of a
// check's other end may be deployed after its own.
func answers(ask func() error) *check.Result {
	err := ask()
	if err == nil {
		return nil
	}
	r := check.Wait("%v", err)
	if errors.Is(err, observe.ErrQuery) {
		r = check.Fail(err)
	}
	return &r
}
