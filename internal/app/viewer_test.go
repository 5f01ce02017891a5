package app

import (
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/console"
	"github.com/orrery-dev/orrery/internal/environment"
)

// viewer has the console's eyes on the environment.
func (s *small) viewer() *viewer {
	s.t.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	e, err := environment.Existing(environment.Request{StateRoot: s.state, CacheDir: s.cache, File: "orrery.yaml", Log: log})
	if err != nil {
		s.t.Fatal(err)
	}
	v := newViewer(s.t.Context(), e, log, false)
	s.t.Cleanup(func() {
		v.close()
		if err := e.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return v
}

// The console sees nodes, pods and components, those that were left out too, as they are; and
// what the driver saw where the API does not answer.
func TestViewer(t *testing.T) {
	s := newSmall(t)
	s.up()
	shot, err := s.viewer().look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if shot.Environment != "small" || shot.Phase != "running" || len(shot.Nodes) != 2 {
		t.Errorf("%+v", shot)
	}
	pods := 0
	for _, n := range shot.Nodes {
		pods += len(n.Pods)
		if n.Health != console.Good || n.State != "ready" || n.Address == "" || n.Zone == "" {
			t.Errorf("%+v", n)
		}
	}
	if pods == 0 {
		t.Error("no pods on any node")
	}
	health := map[string]console.Health{}
	for _, c := range shot.Components {
		health[c.Name] = c.Health
	}
	if len(health) != 3 || health["shop"] != console.Good {
		t.Errorf("%v", health)
	}
	if shot.AlertsUnknown != "Nobody watches: Prometheus is not there." {
		t.Errorf("%q", shot.AlertsUnknown)
	}
	ways := ""
	for _, e := range shot.Endpoints {
		ways += e.Name + " "
	}
	if !strings.Contains(ways, "kubectl") || !strings.Contains(ways, "registry") {
		t.Errorf("%q", ways)
	}

	// A node that died, and one that was stopped.
	s.cluster.SetDown("agent1", true)
	if shot, err = s.viewer().look(t.Context()); err != nil || len(shot.Nodes) != 2 {
		t.Fatalf("%+v, %v", shot.Nodes, err)
	}
	for _, n := range shot.Nodes {
		if want := map[string]console.Health{"server1": console.Good, "agent1": console.Failing}[n.Name]; n.Health != want {
			t.Errorf("%+v, want %s", n, want)
		}
	}
	s.cluster.SetDown("agent1", false)

	// The API is away: an error, and the nodes all the same.
	s.cluster.API.Stop()
	if shot, err = s.viewer().look(t.Context()); err == nil || len(shot.Nodes) != 2 || shot.Environment != "small" {
		t.Errorf("%+v, %v", shot, err)
	}
	s.want(exitOK, "stop")
	if shot, err = s.viewer().look(t.Context()); err == nil || !strings.Contains(err.Error(), `environment "small" is stopped`) {
		t.Errorf("%+v, %v", shot, err)
	}
	for _, n := range shot.Nodes {
		if n.Health == console.Good || n.State == "ready" {
			t.Errorf("%+v", n)
		}
	}
}

// What the last up left out is shown as that.
func TestViewerSkipped(t *testing.T) {
	s := newSmall(t)
	s.needsForeign()
	s.want(exitOK, "bundle import "+s.platform.Bundle+" --key "+s.platform.Key)
	s.want(exitOK, "up --catalog "+s.platform.Root, "Skipped: shop: ")
	shot, err := s.viewer().look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range shot.Components {
		skipped := c.Name != "namespaces"
		if (c.Health == console.Off) != skipped || skipped != strings.Contains(c.Reason, "does not name registry") {
			t.Errorf("%+v", c)
		}
	}
}
