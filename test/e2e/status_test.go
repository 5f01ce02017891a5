package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// The JSON forms below are written from the contract, not taken from the code.

type status struct {
	Environment string            `json:"environment"`
	Driver      string            `json:"driver"`
	Phase       string            `json:"phase"`
	Network     string            `json:"network"`
	Nodes       []statusNode      `json:"nodes"`
	Components  []statusComponent `json:"components"`
	Endpoints   map[string]string `json:"endpoints"`
}

type statusNode struct {
	Name    string `json:"name"`
	Role    string `json:"role"`
	Zone    string `json:"zone"`
	Ready   bool   `json:"ready"`
	Address string `json:"address"`
}

type statusComponent struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	State     string `json:"state"`
	Reason    string `json:"reason"`
}

type verification struct {
	Passed  int `json:"passed"`
	Failed  int `json:"failed"`
	Skipped int `json:"skipped"`
	Checks  []struct {
		Component string  `json:"component"`
		Name      string  `json:"name"`
		State     string  `json:"state"`
		Detail    string  `json:"detail"`
		Seconds   float64 `json:"seconds"`
	} `json:"checks"`
}

type upSummary struct {
	Type        string             `json:"type"`
	Environment string             `json:"environment"`
	Changed     bool               `json:"changed"`
	Seconds     map[string]float64 `json:"seconds"`
}

type downSummary struct {
	Type    string    `json:"type"`
	Seconds float64   `json:"seconds"`
	Leaks   *[]string `json:"leaks"`
}

type node struct {
	Name     string `json:"name"`
	Address  string `json:"address"`
	Running  bool   `json:"running"`
	Stopped  bool   `json:"stopped"`
	Services []struct {
		Name     string `json:"name"`
		PID      int    `json:"pid"`
		Restarts int    `json:"restarts"`
	} `json:"services"`
}

func (e *environment) status(t *testing.T) status {
	t.Helper()
	return decode[status](t, e.run(t, "status", "-o", "json"))
}

func (e *environment) nodes(t *testing.T) map[string]node {
	t.Helper()
	all := map[string]node{}
	for _, n := range decode[[]node](t, e.run(t, "node", "list", "-o", "json")) {
		all[n.Name] = n
	}
	return all
}

// pid of a service, 0 when it does not run.
func (n node) pid(service string) int {
	for _, s := range n.Services {
		if s.Name == service {
			return s.PID
		}
	}
	return 0
}

// up brings the environment up and returns its events and summary.
func (e *environment) up(t *testing.T, args ...string) ([]event, upSummary) {
	t.Helper()
	if len(args) == 0 {
		args = []string{"up"}
	}
	all := events(t, e.run(t, append(args, "-o", "json")...))
	if len(all) == 0 {
		t.Fatal("no events")
	}
	sum := decode[upSummary](t, all[len(all)-1].line)
	if sum.Type != "summary" {
		t.Fatalf("the last line is no summary: %s", all[len(all)-1].line)
	}
	st := e.status(t)
	e.ports, e.components = nil, len(st.Components)
	for _, at := range st.Endpoints {
		e.ports = append(e.ports, at[strings.LastIndexByte(at, ':')+1:])
	}
	return all, sum
}

// down removes the environment and searches the machine.
func (e *environment) down(t *testing.T) downSummary {
	t.Helper()
	all := events(t, e.run(t, "down", "-o", "json"))
	if len(all) == 0 {
		t.Fatal("down printed nothing")
	}
	sum := decode[downSummary](t, all[len(all)-1].line)
	if sum.Type != "summary" || sum.Leaks == nil || len(*sum.Leaks) != 0 {
		t.Errorf("down ends with %s, want a summary with leaks []", all[len(all)-1].line)
	}
	e.audit(t)
	return sum
}

// ready says what is not Ready, as far as `status` tells. down lists nodes that need not be.
func (e *environment) ready(ctx context.Context, down ...string) error {
	r := e.invoke(ctx, nil, "status", "-o", "json")
	if r.code != 0 || r.err != nil {
		return fmt.Errorf("%v", r)
	}
	var st status
	if err := json.Unmarshal([]byte(r.stdout), &st); err != nil {
		return err
	}
	var not []string
	if st.Phase != "running" && len(down) == 0 {
		not = append(not, "phase "+st.Phase)
	}
	for _, n := range st.Nodes {
		if !n.Ready && !slices.Contains(down, n.Name) {
			not = append(not, "node "+n.Name)
		}
	}
	if len(st.Nodes) == 0 {
		not = append(not, "no nodes")
	}
	if len(st.Components) < e.components {
		not = append(not, fmt.Sprintf("%d of %d components are listed", len(st.Components), e.components))
	}
	for _, c := range st.Components {
		if c.State != "ready" && c.State != "skipped" && len(down) == 0 {
			not = append(not, "component "+c.Name+": "+c.State+": "+c.Reason)
		}
	}
	if len(not) > 0 {
		return fmt.Errorf("not ready: %s", strings.Join(not, ", "))
	}
	return nil
}

// becomesReady waits until everything is, and says how long that took.
func (e *environment) becomesReady(t *testing.T, timeout time.Duration) {
	t.Helper()
	took := eventually(t, "all Ready", timeout, func(ctx context.Context) error { return e.ready(ctx) })
	t.Logf("all Ready after %.1f s", took.Seconds())
}

// verify runs all checks, which must pass.
func (e *environment) verify(t *testing.T, names ...string) verification {
	t.Helper()
	r := e.try(t, append(append([]string{"verify"}, names...), "-o", "json")...)
	if r.stdout == "" {
		t.Fatal(r)
	}
	v := decode[verification](t, r.stdout)
	slowest := ""
	var seconds float64
	for _, c := range v.Checks {
		if c.Seconds > seconds {
			slowest, seconds = c.Name, c.Seconds
		}
		switch {
		case c.State == "skipped" && c.Detail != "": // what cannot be had on this machine says why
			t.Logf("verify: %s/%s skipped: %s", c.Component, c.Name, c.Detail)
		case c.State != "succeeded":
			t.Errorf("verify: %s/%s %s: %s", c.Component, c.Name, c.State, c.Detail)
		}
	}
	if r.code != 0 || v.Failed != 0 || v.Passed == 0 {
		t.Errorf("verify: exit %d, %d passed, %d failed, %d skipped", r.code, v.Passed, v.Failed, v.Skipped)
	}
	t.Logf("verify: %d passed in %.1f s, %s last after %.1f s", v.Passed, r.took.Seconds(), slowest, seconds)
	return v
}
