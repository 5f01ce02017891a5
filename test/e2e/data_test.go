package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/orrery-dev/orrery/internal/check/smoke"
	"github.com/orrery-dev/orrery/internal/kube"
)

// TestData backs up what NATS holds, gives it back, also to another environment's servers, and asks before
// a component leaves with its data.
func TestData(t *testing.T) {
	const size = "servers: 1\nagents: 0\nnetwork: {plugin: ptp}\n"
	e := newEnvironment(t, "data", size+"components: [namespaces, coredns, local-path, nats]\n")
	e.run(t, "up", "--skip-verify")
	messages := func(want uint64) {
		t.Helper()
		withJetStream(t, e, func(ctx context.Context, js jetstream.JetStream) error {
			s, err := js.Stream(ctx, "orders")
			if err == nil && s.CachedInfo().State.Msgs != want {
				err = fmt.Errorf("%d messages, want %d", s.CachedInfo().State.Msgs, want)
			}
			return err
		})
	}
	publish := func(n int) {
		t.Helper()
		withJetStream(t, e, func(ctx context.Context, js jetstream.JetStream) error {
			_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "orders", Subjects: []string{"orders"}})
			for i := 0; err == nil && i < n; i++ {
				_, err = js.Publish(ctx, "orders", []byte(strings.Repeat("x", 1000)))
			}
			return err
		})
	}
	publish(100)
	file := filepath.Join(t.TempDir(), "orders.tar")
	var took struct {
		Version string
		Bytes   int64
		Streams []struct {
			Name     string
			Messages int
		}
	}
	if err := json.Unmarshal([]byte(e.run(t, "data", "backup", "nats", file, "-o", "json")), &took); err != nil {
		t.Fatal(err)
	}
	if len(took.Streams) != 1 || took.Streams[0].Name != "orders" || took.Streams[0].Messages != 100 || took.Bytes == 0 || took.Version == "" {
		t.Errorf("%+v", took)
	}
	refused := func(says string, args ...string) {
		t.Helper()
		if r := e.try(t, args...); r.code != 2 || !strings.Contains(r.stderr, says) {
			t.Errorf("want exit status 2 and %q: %v", says, r)
		}
	}
	refused("--force", "data", "backup", "nats", file)
	publish(11)
	refused("orders (111 messages", "data", "restore", "nats", file)
	messages(111)
	if out := e.run(t, "data", "restore", "nats", file, "--delete-data"); !strings.Contains(out, "orders") {
		t.Error(out)
	}
	messages(100)
	publish(1)
	messages(101)
	refused("docs/reference/data.md", "data", "backup", "scylladb", file+"2")

	if err := e.write(filepath.Dir(e.file), size+"components: [namespaces, coredns, local-path]\n"); err != nil {
		t.Fatal(err)
	}
	refused("component nats, and with it all streams", "up", "--skip-verify")
	messages(101)
	e.run(t, "up", "--skip-verify", "--delete-data")
	if slices.Contains(strings.Fields(e.run(t, "kubectl", "get", "statefulsets", "-A", "-o", "name")), "statefulset.apps/nats") {
		t.Error("nats is there still")
	}
}

// withJetStream does something as the application's user.
func withJetStream(t *testing.T, e *environment, do func(context.Context, jetstream.JetStream) error) {
	t.Helper()
	client, err := kube.Connect(e.state("kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	nc, _, err := smoke.ConnectNATS(ctx, smoke.Env{Client: client}, "e2e")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := do(ctx, js); err != nil {
		t.Fatal(err)
	}
}
