// Package natstest runs a real NATS server inside a test, which can be killed and come
// back with what it had on its disk.
package natstest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"go.yaml.in/yaml/v3"
)

// Server of a test.
type Server struct {
	// SeedFile of the user that pulse is on the platform, with its permissions.
	SeedFile string

	t        testing.TB
	options  server.Options
	observer string // a user that may do anything
	sign     nats.SignatureHandler
	running  *server.Server
}

// Start a server with JetStream. It ends with the test.
func Start(t testing.TB) *Server {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	observer, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, SeedFile: filepath.Join(dir, "pulse.seed"), sign: observer.Sign}
	if s.observer, err = observer.PublicKey(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.SeedFile, seed, 0o600); err != nil {
		t.Fatal(err)
	}
	s.options = server.Options{
		Host: "127.0.0.1", Port: freePort(t), NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: filepath.Join(dir, "jetstream"),
		Nkeys: []*server.NkeyUser{{Nkey: public, Permissions: permissions(t)}, {Nkey: s.observer}},
	}
	t.Cleanup(s.Kill)
	s.Restart()
	return s
}

// permissions are those of the user pulse on the platform, from the values of the chart.
func permissions(t testing.TB) *server.Permissions {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	text, err := os.ReadFile(filepath.Join(filepath.Dir(here), "../../../../infra/k8s/base/nats/chart/values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var values struct {
		Clients struct {
			Users []struct {
				Name               string
				Publish, Subscribe []string
			}
		}
	}
	if err := yaml.Unmarshal(text, &values); err != nil {
		t.Fatal(err)
	}
	for _, u := range values.Clients.Users {
		if u.Name == "pulse" {
			return &server.Permissions{Publish: &server.SubjectPermission{Allow: u.Publish}, Subscribe: &server.SubjectPermission{Allow: u.Subscribe}}
		}
	}
	t.Fatal("the chart of nats has no user pulse")
	return nil
}

// URL of the server; it stays the same over restarts.
func (s *Server) URL() string {
	return fmt.Sprintf("nats://127.0.0.1:%d", s.options.Port)
}

// Kill the server. Without Restart it is gone.
func (s *Server) Kill() {
	if s.running != nil {
		s.running.Shutdown()
		s.running.WaitForShutdown()
		s.running = nil
	}
}

// Restart a server that was killed.
func (s *Server) Restart() {
	s.t.Helper()
	options := s.options
	running, err := server.NewServer(&options)
	if err != nil {
		s.t.Fatal(err)
	}
	running.Start()
	if !running.ReadyForConnections(10 * time.Second) {
		s.t.Fatal("the NATS server does not answer")
	}
	s.running = running
}

// Swallow has messages to a subject vanish until found is called, which waits until one
// did: what becomes of a request whose leader changes before it answers.
func (s *Server) Swallow(subject string) (found func()) {
	s.t.Helper()
	const hole = "$JS.ACK.pulse.worker.hole" // the user may send there, and nobody answers
	conn, err := nats.Connect(s.URL(), nats.Nkey(s.observer, s.sign))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(conn.Close)
	sub, err := conn.SubscribeSync(hole)
	if err != nil {
		s.t.Fatal(err)
	}
	account := s.running.GlobalAccount()
	if err := errors.Join(conn.Flush(), account.AddMapping(subject, hole)); err != nil {
		s.t.Fatal(err)
	}
	return func() {
		s.t.Helper()
		if _, err := sub.NextMsg(30 * time.Second); err != nil {
			s.t.Fatalf("nothing was sent to %s: %v", subject, err)
		}
		account.RemoveMapping(subject)
	}
}

func freePort(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
