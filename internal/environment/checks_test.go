package environment

import (
	"context"
	"errors"
	"strings"
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
