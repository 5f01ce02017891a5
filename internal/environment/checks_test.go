package environment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/flow"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

type flowDriver struct {
	driver.Driver
	servers []driver.FlowServer
	err     error
}

func (d flowDriver) Flows(context.Context) (string, []driver.FlowServer, error) {
	return "hubble", d.servers, d.err
}

func TestFlowSource(t *testing.T) {
	e := &Environment{Spec: spec.Named("x"), Driver: flowDriver{servers: []driver.FlowServer{{Node: "server1", Address: "unix:///s"}}}}
	program, servers, err := e.Flows(nil).Servers(t.Context())
	if d := cmp.Diff([]flow.Server{{Node: "server1", Address: "unix:///s"}}, servers); d != "" || err != nil || program != "hubble" {
		t.Error(d, err, program)
	}
	e.Driver = flowDriver{err: driver.ErrNoFlows}
	if _, err := e.Flows(nil).Read(t.Context(), flow.Query{}); !errors.Is(err, driver.ErrNoFlows) || !failure.IsRefused(err) {
		t.Errorf("a network without flows: %v", err)
	}
	e.Driver = struct{ driver.Driver }{}
	if _, err := e.Flows(nil).Read(t.Context(), flow.Query{}); !errors.Is(err, driver.ErrNoFlows) {
		t.Errorf("a driver without flows: %v", err)
	}
}

func TestCheckState(t *testing.T) {
	rs := CheckResults{
		{Component: "nats", Name: "streams", State: check.Failed, Detail: "lost 3 messages"},
		{Component: "dns", Name: "lookup", State: check.Succeeded, Detail: "ok"},
		{Component: "data", Name: "fdb", State: check.Skipped, Detail: "no image"},
	}
	if st, err := rs.state(); st != ui.StateFailed || err == nil || !strings.Contains(err.Error(), "nats/streams") {
		t.Errorf("state: %s %v", st, err)
	}
	if st, err := rs[2:].state(); st != ui.StateSkipped || err != nil {
		t.Errorf("only skipped: %s %v: skipped is not success", st, err)
	}
}

// Whoever is told of checks is told of one at a time, also while some begin and others end.
func TestAwaitTellsOneAtATime(t *testing.T) {
	p := &Platform{Environment: &Environment{StateDir: t.TempDir(), request: Request{Log: slog.New(slog.DiscardHandler)}}}
	var telling, begun, ended atomic.Int32
	tell := func(count *atomic.Int32) {
		if !telling.CompareAndSwap(0, 1) {
			t.Error("told of two at once")
		}
		runtime.Gosched()
		count.Add(1)
		telling.Store(0)
	}
	var conditions []check.Condition
	for i := range 200 {
		conditions = append(conditions, check.Condition{Component: "cluster", Name: fmt.Sprint(i), Probe: func(context.Context) check.Result { return check.OK("fine") }})
	}
	results := p.Await(t.Context(), conditions, func(check.Condition) { tell(&begun) }, func(CheckResult) { tell(&ended) })
	if begun.Load() != 200 || ended.Load() != 200 || len(results) != 200 || results.Count(check.Succeeded) != 200 {
		t.Errorf("%d begun, %d ended, %d results", begun.Load(), ended.Load(), len(results))
	}
	if all, err := readResults(p.StateDir); err != nil || len(all) != 200 {
		t.Errorf("%d were noted, %v", len(all), err)
	}
}

// Failures stand last, and the rest by component and name.
func TestSortedChecks(t *testing.T) {
	result := func(component, name string, state check.State) CheckResult {
		return CheckResult{Component: component, Name: name, State: state}
	}
	want := CheckResults{
		result("a", "x", check.Skipped), result("b", "x", check.Succeeded), result("b", "y", check.Succeeded), result("a", "z", check.Failed), result("c", "a", check.Failed),
	}
	for range 20 {
		mixed := slices.Clone(want)
		rand.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
		if got := mixed.Sorted(); !slices.Equal(got, want) {
			t.Fatalf("%v", got)
		}
	}
}
