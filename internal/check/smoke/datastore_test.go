package smoke

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/orrery-dev/orrery/internal/datastore"
)

// TestNATSBackup takes streams of three real servers into a file and gives them back, to the same servers
// and under every objection.
func TestNATSBackup(t *testing.T) {
	c := startNATS(t, "local")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	nc, err := connect(ctx, c.target.url, slices.Concat(c.target.options, c.target.auth))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	create := func(config jetstream.StreamConfig) jetstream.Stream {
		t.Helper()
		var stream jetstream.Stream
		err := until(ctx, patience, func() (err error) {
			stream, err = js.CreateStream(ctx, config)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	orders := create(jetstream.StreamConfig{Name: "orders", Subjects: []string{"orders.>"}, Replicas: 3})
	create(jetstream.StreamConfig{Name: "fleeting", Subjects: []string{"fleeting"}, Storage: jetstream.MemoryStorage, Replicas: 3})
	create(jetstream.StreamConfig{Name: "empty", Subjects: []string{"empty"}, Replicas: 1})
	// Larger than the window of a snapshot, so that it has to be acknowledged.
	large := []byte(strings.Repeat("0123456789abcdef", 8<<10)) // 128 KiB
	for i := range 120 {
		data := append([]byte(fmt.Sprintf("order %d ", i)), large...)
		for j := range data[16:] { // hard to compress
			data[16+j] ^= byte(i*j ^ j>>8 ^ j*j>>3)
		}
		if _, err := js.Publish(ctx, "orders.new", data, jetstream.WithRetryAttempts(20), jetstream.WithMsgID(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := orders.DeleteMsg(ctx, 7); err != nil { // a gap
		t.Fatal(err)
	}
	consumer, err := orders.CreateConsumer(ctx, jetstream.ConsumerConfig{Durable: "clerk", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		m, err := consumer.Next()
		if err != nil {
			t.Fatal(err)
		}
		if err := m.DoubleAck(ctx); err != nil {
			t.Fatal(err)
		}
	}

	dir := t.TempDir()
	file := filepath.Join(dir, "backup")
	taken := map[string]datastore.Stream{}
	backup(t, nc, file, datastore.Header{Store: datastore.NATS, Version: nc.ConnectedServerVersion(), Environment: "test"}, func(s datastore.Stream) { taken[s.Name] = s })
	if s := taken["orders"]; s.Messages != 119 || s.Consumers != 1 || s.LeftOut || len(taken) != 3 || !taken["fleeting"].LeftOut || taken["empty"].LeftOut {
		t.Fatalf("%+v", taken)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".orrery-*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	restore := func(file string, servers int, deleteData bool) (map[string]datastore.Stream, error) {
		archive, err := datastore.Open(file, datastore.NATS)
		if err != nil {
			return nil, err
		}
		defer archive.Close()
		given := map[string]datastore.Stream{}
		return given, datastore.RestoreJetStream(ctx, nc, archive, servers, deleteData, func(s datastore.Stream) { given[s.Name] = s })
	}
	refused := func(what string, err error, says string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: error %v, want one that says %q", what, err, says)
		}
	}
	state := func() (st jetstream.StreamState) {
		t.Helper()
		stream, err := js.Stream(ctx, "orders")
		if err != nil {
			t.Fatal(err)
		}
		return stream.CachedInfo().State
	}

	if _, err := js.Publish(ctx, "orders.new", []byte("after the backup")); err != nil {
		t.Fatal(err)
	}
	_, err = restore(file, 3, false)
	refused("streams that are there", err, "orders (120 messages, the last of ")
	if n := state().Msgs; n != 120 {
		t.Fatalf("a refused restore left %d messages", n)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for _, length := range []int{len(data) / 2, len(data) - 2048, 700} {
		_, err = restore(write("cut", data[:length]), 3, true)
		refused(fmt.Sprintf("the first %d of %d bytes", length, len(data)), err, "it is cut short")
	}
	damaged := slices.Clone(data)
	damaged[len(damaged)/2] ^= 1
	_, err = restore(write("damaged", damaged), 3, true)
	refused("one bit", err, "it was changed or damaged")
	_, err = restore(write("text", []byte("hello")), 3, true)
	refused("a text", err, "it is no backup")
	future := filepath.Join(dir, "future")
	backup(t, nc, future, datastore.Header{Store: datastore.NATS, Version: "2.99.0"}, func(datastore.Stream) {})
	_, err = restore(future, 3, true)
	refused("of a newer server", err, "taken from NATS 2.99.0")
	_, err = datastore.Open(file, "scylladb")
	refused("of another store", err, "it is a backup of nats, not of scylladb")
	if n := state().Msgs; n != 120 {
		t.Fatalf("refused restores left %d messages", n)
	}

	given, err := restore(file, 3, true)
	if err != nil {
		t.Fatal(err)
	}
	if s := given["orders"]; s.Messages != 119 || s.Note != "" {
		t.Errorf("%+v", given)
	}
	if st := state(); st.Msgs != 119 || st.LastSeq != 120 || st.NumDeleted != 1 || st.Consumers != 1 {
		t.Errorf("restored: %+v", st)
	}
	if _, err := js.Stream(ctx, "fleeting"); err != nil {
		t.Errorf("a stream that the backup does not have: %v", err)
	}
	// The consumer goes on where it was, all replicas catch up, and the stream takes messages.
	clerk, err := js.Consumer(ctx, "orders", "clerk")
	if err != nil {
		t.Fatal(err)
	}
	m, err := clerk.Next()
	if err != nil {
		t.Fatal(err)
	}
	if meta, err := m.Metadata(); err != nil || meta.Sequence.Stream != 12 || !strings.HasPrefix(string(m.Data()), "order 11 ") {
		t.Errorf("the consumer got message %+v %.10q, %v; want number 12", meta, m.Data(), err)
	}
	err = until(ctx, patience, func() error {
		stream, err := js.Stream(ctx, "orders")
		if err != nil {
			return err
		}
		for _, r := range stream.CachedInfo().Cluster.Replicas {
			if !r.Current {
				return fmt.Errorf("%s is behind by %d", r.Name, r.Lag)
			}
		}
		if len(stream.CachedInfo().Cluster.Replicas) != 2 {
			return errors.New("not three replicas")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := js.Publish(ctx, "orders.new", []byte("after the restore")); err != nil {
		t.Error(err)
	}
	// Onto fewer servers.
	if given, err = restore(file, 1, true); err != nil || !strings.Contains(given["orders"].Note, "kept 1 times and not 3") {
		t.Errorf("%+v, %v", given, err)
	}
}

func backup(t *testing.T, nc *nats.Conn, file string, h datastore.Header, done func(datastore.Stream)) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := datastore.NewWriter(f, filepath.Dir(file), h)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(datastore.BackupJetStream(t.Context(), nc, w, done), w.Close()); err != nil {
		t.Fatal(err)
	}
}
