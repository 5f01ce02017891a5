package flow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets this test be the hubble that it runs: what it is asked goes to a file, what
// it answers comes from one, both named after the server's address.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "observe" {
		os.Exit(fakeHubble(os.Args[1:]))
	}
	os.Exit(m.Run())
}

func fakeHubble(args []string) int {
	server := strings.TrimPrefix(args[slices.Index(args, "--server")+1], "unix://")
	if err := os.WriteFile(server+".args", []byte(strings.Join(args, " ")), 0o600); err != nil {
		return 2
	}
	data, err := os.ReadFile(server)
	if err != nil {
		fmt.Fprintln(os.Stderr, "failed to connect to "+server)
		return 1
	}
	os.Stdout.Write(data)
	if slices.Contains(args, "--follow") {
		if _, err := os.Stat(server + ".ends"); err != nil {
			told := make(chan os.Signal, 1)
			signal.Notify(told, syscall.SIGTERM)
			<-told
		}
	}
	return 0
}

var zero = time.Date(2026, 11, 23, 4, 0, 0, 0, time.UTC)

// event is a line of hubble's, of a packet seen after that many milliseconds.
func event(ms int, verdict, from, to string) string {
	endpoint := func(pod string) map[string]any {
		namespace, name, _ := strings.Cut(pod, "/")
		return map[string]any{"identity": 7, "namespace": namespace, "pod_name": name}
	}
	data, _ := json.Marshal(map[string]any{"flow": map[string]any{
		"time": zero.Add(time.Duration(ms) * time.Millisecond).Format(time.RFC3339Nano), "verdict": verdict,
		"source": endpoint(from), "destination": endpoint(to), "node_name": "default/x",
	}})
	return string(data) + "\n"
}

// source of nodes whose hubbles print these texts; "" is one that cannot be reached.
func source(t *testing.T, nodes map[string]string) (Source, string, *troubles) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	told := &troubles{}
	var servers []Server
	for node, text := range nodes {
		file := filepath.Join(dir, node)
		if text != "" {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		servers = append(servers, Server{node, "unix://" + file})
	}
	slices.SortFunc(servers, func(a, b Server) int { return strings.Compare(a.Node, b.Node) })
	return Source{
		Servers: func(context.Context) (string, []Server, error) { return program, servers, nil },
		Trouble: told.tell,
	}, dir, told
}

func names(flows []Flow) string {
	var b strings.Builder
	for _, f := range flows {
		fmt.Fprintf(&b, "%s:%d ", f.Node, f.Time.Sub(zero).Milliseconds())
	}
	return strings.TrimSpace(b.String())
}

func TestRead(t *testing.T) {
	s, dir, told := source(t, map[string]string{
		"a": event(1, "FORWARDED", "x/p", "y/q") + event(4, "FORWARDED", "x/p", "y/q") + event(5, "DROPPED", "x/p", "y/q"),
		"b": event(2, "FORWARDED", "x/p", "y/q") + `{"lost_events":{"source":"HUBBLE_RING_BUFFER","num_events_lost":"12"}}` + "\n" + event(3, "DROPPED", "z/p", "z/q"),
		"c": "",
	})
	all, err := s.Read(t.Context(), Query{})
	if got := names(all); err != nil || got != "a:1 b:2 b:3 a:4 a:5" {
		t.Errorf("%s, %v", got, err)
	}
	if got := told.String(); !strings.Contains(got, "c: flows of c: ") || !strings.Contains(got, "failed to connect") || !strings.Contains(got, "b: 12 events were lost (hubble ring buffer)") {
		t.Errorf("told: %s", got)
	}
	last, err := s.Read(t.Context(), Query{Last: 2})
	if got := names(last); err != nil || got != "a:4 a:5" {
		t.Errorf("%s, %v", got, err)
	}
	one, err := s.Read(t.Context(), Query{Node: "b", Namespace: "z", Since: zero.Add(2 * time.Millisecond)})
	if got := names(one); err != nil || got != "b:3" {
		t.Errorf("%s, %v", got, err)
	}
	asked, err := os.ReadFile(filepath.Join(dir, "b.args"))
	if want := `--namespace z --denylist {"event_type":[{"type":5}]} --denylist {"drop_reason_desc":[139]} --since 2026-11-23T04:00:00.002Z`; err != nil || !strings.HasSuffix(string(asked), want) {
		t.Errorf("asked %s, want %s at the end", asked, want)
	}
}

func TestReadFails(t *testing.T) {
	s, _, _ := source(t, map[string]string{"a": "", "b": ""})
	if _, err := s.Read(t.Context(), Query{}); err == nil || !strings.Contains(err.Error(), "failed to connect") {
		t.Errorf("no node answers: %v", err)
	}
	s, _, _ = source(t, map[string]string{"a": "what is this\n"})
	if _, err := s.Read(t.Context(), Query{}); err == nil || !strings.Contains(err.Error(), "hubble printed what is no flow") {
		t.Errorf("a hubble of another kind: %v", err)
	}
	if _, err := s.Read(t.Context(), Query{Node: "q"}); err == nil || !strings.Contains(err.Error(), `no node "q" runs: there are a`) {
		t.Errorf("another node: %v", err)
	}
	s, _, _ = source(t, nil)
	if _, err := s.Read(t.Context(), Query{}); err == nil || !strings.Contains(err.Error(), "no node runs") {
		t.Errorf("no nodes: %v", err)
	}
	s, _, _ = source(t, map[string]string{"a": strings.Repeat("x", maxLine+2)})
	if _, err := s.Read(t.Context(), Query{}); err == nil || !strings.Contains(err.Error(), "a line of more than") {
		t.Errorf("an endless line: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Read(ctx, Query{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestFollow(t *testing.T) {
	s, dir, told := source(t, map[string]string{
		"a": event(1, "FORWARDED", "x/p", "y/q") + event(3, "FORWARDED", "x/p", "y/q"),
		"b": event(2, "DROPPED", "x/p", "y/q"),
		"c": "",
	})
	ctx, cancel := context.WithCancel(t.Context())
	var shown []Flow
	err := s.Follow(ctx, Query{Last: 5, Verdicts: []Verdict{Dropped}}, func(f Flow) error {
		if shown = append(shown, f); len(shown) == 3 {
			cancel()
		}
		return nil
	})
	if got := names(shown); !errors.Is(err, context.Canceled) || got != "a:1 b:2 a:3" {
		t.Errorf("%s, %v", got, err)
	}
	if !strings.Contains(told.String(), "c: ") {
		t.Errorf("told: %s", told)
	}
	if asked, _ := os.ReadFile(filepath.Join(dir, "a.args")); !strings.HasSuffix(string(asked), `--verdict DROPPED --denylist {"event_type":[{"type":5}]} --denylist {"drop_reason_desc":[139]} --last 5 --follow`) {
		t.Errorf("asked %s", asked)
	}
	enough := errors.New("enough")
	if err := s.Follow(t.Context(), Query{}, func(Flow) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("show stops it: %v", err)
	}
	for _, node := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(dir, node+".ends"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	shown = nil
	err = s.Follow(t.Context(), Query{}, func(f Flow) error { shown = append(shown, f); return nil })
	if got := names(shown); err == nil || !strings.Contains(err.Error(), "failed to connect") || got != "a:1 b:2 a:3" {
		t.Errorf("all have ended: %s, %v", got, err)
	}
}

func TestCheck(t *testing.T) {
	if err := (Query{Pod: "messaging/nats", Verdicts: []Verdict{Dropped}, Protocols: []string{"tcp", "dns"}, Port: 4222, Last: 3}).Check(); err != nil {
		t.Error(err)
	}
	err := Query{Pod: "nats", From: "a/b/c", To: "/x", Namespace: "a/b", Verdicts: []Verdict{"NO"}, Protocols: []string{"http"}, Port: 70000, Last: -1}.Check()
	for _, want := range []string{`pod is "nats": want NAMESPACE/POD`, `from is "a/b/c"`, `to is "/x"`, `namespace is "a/b"`, `verdict is "NO": want one of [FORWARDED`, `protocol is "http": want one of [tcp`, "port is 70000", "last is -1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %s", err, want)
		}
	}
}
