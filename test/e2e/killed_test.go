package e2e

import (
	"encoding/json"
	"os"
	"strings"
	"syscall"
	"testing"
)

// small is quick to make: one node, two components, and the network that needs no compiler.
const small = "servers: 1\nagents: 0\nnetwork: {plugin: ptp}\ncomponents: [namespaces, coredns]\n"

// moments of an up at which the command line is killed, by the event that tells.
var moments = []struct{ name, step, state string }{
	{"mirror-made", "prepare", "done"},
	{"cluster-starting", "cluster", "running"},
	{"cluster-made", "cluster", "done"},
	{"deploying", "deploy/coredns", "running"},
}

// TestKilledThenUp: SIGKILL in the middle of up; the next up completes.
func TestKilledThenUp(t *testing.T) {
	for _, m := range moments {
		t.Run(m.name, func(t *testing.T) {
			e := newEnvironment(t, "kill", small)
			e.upEndedBy(t, syscall.SIGKILL, m.step, m.state)
			_, sum := e.up(t)
			if !sum.Changed {
				t.Error("the second up says that there was nothing to do")
			}
			if err := e.ready(t.Context()); err != nil {
				t.Error(err)
			}
			t.Logf("up after SIGKILL: %v", sum.Seconds)
			e.verify(t)
			e.down(t)
		})
	}
}

// TestKilledThenDown: SIGKILL in the middle of up; down leaves nothing.
func TestKilledThenDown(t *testing.T) {
	for _, m := range moments {
		t.Run(m.name, func(t *testing.T) {
			e := newEnvironment(t, "drop", small)
			e.upEndedBy(t, syscall.SIGKILL, m.step, m.state)
			t.Logf("down took %.1f s", e.down(t).Seconds)
		})
	}
}

// TestInterrupted: the first Ctrl-C, or a terminal that closes, removes what was made and ends with
// 130. The last words say what happened and what to do.
func TestInterrupted(t *testing.T) {
	for i, m := range moments {
		sig, says := syscall.SIGINT, "(Ctrl-C)"
		if i%2 == 1 {
			sig, says = syscall.SIGHUP, "(SIGHUP)"
		}
		t.Run(m.name, func(t *testing.T) {
			e := newEnvironment(t, "ctrlc", small)
			code, out := e.upEndedBy(t, sig, m.step, m.state)
			if code != 130 {
				t.Errorf("exit status %d, want 130:\n%s", code, last(out, 3000))
			}
			if end := last(out, 600); !strings.Contains(end, says) || !strings.Contains(end, "to try again: orrery up") {
				t.Errorf("its last words name neither %s nor what to do: %s", says, end)
			}
			if _, err := os.Stat(e.state("environment.json")); err == nil {
				t.Error("the interrupted up left its state")
			}
			e.audit(t)
		})
	}
}

// upEndedBy starts up and sends sig when the event of the moment comes.
func (e *environment) upEndedBy(t *testing.T, sig syscall.Signal, step, state string) (code int, rest string) {
	t.Helper()
	up := e.start(t, "up", "-o", "json")
	up.until(t, step+" "+state, func(ev event) bool {
		return ev.Type == "step" && ev.Step == step && (ev.State == state || ev.State == "cached")
	})
	code, rest = up.end(t, sig)
	e.learnPorts()
	return code, rest
}

// learnPorts reads the ports of an environment that may answer nothing, for the audit.
func (e *environment) learnPorts() {
	b, err := os.ReadFile(e.state("environment.json"))
	if err != nil {
		return
	}
	var kept struct{ Ports map[string]json.Number }
	if json.Unmarshal(b, &kept) == nil {
		for _, p := range kept.Ports {
			e.ports = append(e.ports, p.String())
		}
	}
}

// TestDamaged: what is kept of an environment is damaged, or from a later orrery. Every
// verb says so and what to do; down works, unless only the later one can remove what it made.
func TestDamaged(t *testing.T) {
	write := func(t *testing.T, path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kept := "" // what a case damaged and heals
	for _, d := range []struct {
		name   string
		damage func(t *testing.T, e *environment)
		heal   func(t *testing.T, e *environment) // before down, nil when down needs none
		verbs  []string                           // that must refuse
		says   []string                           // and mention
	}{
		{
			name: "state",
			damage: func(t *testing.T, e *environment) {
				write(t, e.state("environment.json"), `{"version": 1, "spec": {"na`)
			},
			verbs: []string{"status", "up", "stop", "verify"},
			says:  []string{"environment.json", "damaged", "orrery down"},
		},
		{
			name: "journal",
			damage: func(t *testing.T, e *environment) {
				b, err := os.ReadFile(e.state("journal.jsonl"))
				if err != nil {
					t.Fatal(err)
				}
				head, rest, _ := strings.Cut(string(b), "\n")
				write(t, e.state("journal.jsonl"), head+"\n{\"begin\": {\"ki\x00nd\n"+rest)
			},
			verbs: []string{"up"},
			says:  []string{"journal.jsonl:2", "orrery down"},
		},
		{
			name: "later-version",
			damage: func(t *testing.T, e *environment) {
				var later map[string]any
				b, err := os.ReadFile(e.state("environment.json"))
				if err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal(b, &later); err != nil {
					t.Fatal(err)
				}
				kept = string(b)
				later["version"], later["added-later"] = 1000, true
				if b, err = json.Marshal(later); err != nil {
					t.Fatal(err)
				}
				write(t, e.state("environment.json"), string(b))
			},
			verbs: []string{"status", "up", "stop", "verify", "down"},
			says:  []string{"environment.json", "1000", "newer orrery"},
			heal: func(t *testing.T, e *environment) {
				// What a newer orrery made only that one removes; here it stands for it.
				write(t, e.state("environment.json"), kept)
			},
		},
		{
			name: "empty-folder",
			damage: func(t *testing.T, e *environment) {
				removeFiles(t, e.state(), "environment.json", "journal.jsonl", "cluster.json")
			},
		},
	} {
		t.Run(d.name, func(t *testing.T) {
			e := newEnvironment(t, "bad", small)
			e.up(t, "cluster", "create")
			d.damage(t, e)
			for _, verb := range d.verbs {
				r := e.try(t, verb)
				if r.code == 0 {
					t.Errorf("%s succeeded: %v", verb, r)
				}
				for _, s := range d.says {
					if !strings.Contains(r.stderr, s) {
						t.Errorf("%s does not mention %q: %s", verb, s, r.stderr)
					}
				}
			}
			if d.heal != nil {
				d.heal(t, e)
			}
			e.down(t)
		})
	}
}

func removeFiles(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, n := range names {
		if err := os.Remove(dir + "/" + n); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
}
