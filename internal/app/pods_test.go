package app

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/orrery-dev/orrery/internal/console"
	"github.com/orrery-dev/orrery/internal/dashboard"
)

func podFrom(t *testing.T, text string) unstructured.Unstructured {
	t.Helper()
	o := unstructured.Unstructured{}
	data, err := yaml.YAMLToJSON([]byte(text))
	if err == nil {
		err = o.UnmarshalJSON(append([]byte(`{"apiVersion":"v1","kind":"Pod",`), data[1:]...))
	}
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestPodOf(t *testing.T) {
	const ready = `{type: Ready, status: "True"}`
	for name, c := range map[string]struct {
		pod  string
		want console.Pod
	}{
		"ready":         {`{status: {phase: Running, conditions: [` + ready + `]}}`, console.Pod{Health: console.Good}},
		"done":          {`{status: {phase: Succeeded, reason: Completed}}`, console.Pod{Health: console.Done}},
		"failed":        {`{status: {phase: Failed, reason: Evicted}}`, console.Pod{Health: console.Failing, Reason: "Evicted"}},
		"unschedulable": {`{status: {phase: Pending, conditions: [{type: PodScheduled, status: "False", message: 0/5 nodes are available}]}}`, console.Pod{Health: console.Starting, Reason: "0/5 nodes are available"}},
		"creating":      {`{status: {phase: Pending, containerStatuses: [{state: {waiting: {reason: ContainerCreating}}}]}}`, console.Pod{Health: console.Starting, Reason: "ContainerCreating"}},
		"crashing": {`{status: {phase: Running, containerStatuses: [{restartCount: 3, state: {waiting: {reason: CrashLoopBackOff}}}, {restartCount: 1, state: {running: {}}}]}}`,
			console.Pod{Health: console.Failing, Reason: "CrashLoopBackOff", Restarts: 4}},
		"no image":    {`{status: {phase: Pending, initContainerStatuses: [{state: {waiting: {reason: ImagePullBackOff}}}], containerStatuses: [{state: {waiting: {reason: PodInitializing}}}]}}`, console.Pod{Health: console.Failing, Reason: "ImagePullBackOff"}},
		"not ready":   {`{status: {phase: Running}}`, console.Pod{Health: console.Starting, Reason: "not ready"}},
		"terminating": {`{metadata: {deletionTimestamp: "2026-01-01T00:00:00Z"}, status: {phase: Running, conditions: [` + ready + `]}}`, console.Pod{Health: console.Starting, Reason: "terminating"}},
		"nothing":     {`{spec: {}}`, console.Pod{Health: console.Starting}},
	} {
		t.Run(name, func(t *testing.T) {
			got, _ := podOf(podFrom(t, c.pod))
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestPlace(t *testing.T) {
	s := console.Snapshot{Nodes: []console.Node{{Name: "a"}, {Name: "b"}}}
	placePods(&s, []unstructured.Unstructured{
		podFrom(t, `{metadata: {name: pz, namespace: ns}, spec: {nodeName: a}}`),
		podFrom(t, `{metadata: {name: py, namespace: ns}, spec: {nodeName: a}}`),
		podFrom(t, `{metadata: {name: waiting, namespace: n}}`),
		podFrom(t, `{metadata: {name: old, namespace: n}, spec: {nodeName: gone}, status: {phase: Succeeded}}`),
	})
	if len(s.Nodes[0].Pods) != 2 || s.Nodes[0].Pods[0].Name != "py" || len(s.Pending) != 1 || s.Pending[0].Name != "waiting" {
		t.Errorf("%+v", s)
	}
}

func TestUsageOf(t *testing.T) {
	if u := usageOf("250m", "4", dashboard.Cores); !u.Known || u.Share != 0.0625 || u.Text != "0.25 cores" {
		t.Errorf("%+v", u)
	}
	for _, bad := range [][2]string{{"x", "4"}, {"1", ""}, {"1", "0"}} {
		if u := usageOf(bad[0], bad[1], dashboard.Cores); u.Known {
			t.Errorf("%v: %+v", bad, u)
		}
	}
}

func TestOften(t *testing.T) {
	asked := 0
	o := often[int]{every: time.Hour}
	for range 3 {
		if o.get(func() (int, error) { asked++; return 7, nil }) != 7 {
			t.Error("not 7")
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}
