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
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"go.yaml.in/yaml/v3"
)

// Server of a test, in operator mode as on the platform.
type Server struct {
	// CredsFile is of the user that pulse is on the platform, with its permissions.
	CredsFile string

	t                 testing.TB
	options           server.Options
	operator, account nkeys.KeyPair
	public            string // of the account
	observer          string // credentials of a user that may do anything
	permissions       jwt.Permissions
	running           *server.Server

	mu     sync.Mutex
	claims *jwt.AccountClaims
}

// Start a server with JetStream. It ends with the test.
func Start(t testing.TB) *Server {
	t.Helper()
	dir := t.TempDir()
	s := &Server{t: t, CredsFile: filepath.Join(dir, "pulse.creds"), permissions: permissions(t)}
	s.operator, s.account = key(t, nkeys.PrefixByteOperator), key(t, nkeys.PrefixByteAccount)
	system := key(t, nkeys.PrefixByteAccount)
	s.public = public(t, s.account)
	s.claims = jwt.NewAccountClaims(s.public)
	s.claims.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	operator := jwt.NewOperatorClaims(public(t, s.operator))
	operator.SystemAccount = public(t, system)
	if _, err := operator.Encode(s.operator); err != nil {
		t.Fatal(err)
	}
	resolver := &server.MemAccResolver{}
	for name, claims := range map[string]*jwt.AccountClaims{s.public: s.claims, operator.SystemAccount: jwt.NewAccountClaims(operator.SystemAccount)} {
		token, err := claims.Encode(s.operator)
		if err != nil {
			t.Fatal(err)
		}
		if err := resolver.Store(name, token); err != nil {
			t.Fatal(err)
		}
	}
	s.options = server.Options{
		Host: "127.0.0.1", Port: freePort(t), NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: filepath.Join(dir, "jetstream"),
		TrustedOperators: []*jwt.OperatorClaims{operator}, SystemAccount: operator.SystemAccount, AccountResolver: resolver,
	}
	token, seed := s.user(jwt.Permissions{}, time.Time{})
	s.observer = creds(t, token, seed)
	token, seed = s.user(s.permissions, time.Time{})
	if err := os.WriteFile(s.CredsFile, []byte(creds(t, token, seed)), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	s.Restart()
	return s
}

func key(t testing.TB, kind nkeys.PrefixByte) nkeys.KeyPair {
	t.Helper()
	pair, err := nkeys.CreatePair(kind)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func public(t testing.TB, pair nkeys.KeyPair) string {
	t.Helper()
	key, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func creds(t testing.TB, token, seed string) string {
	t.Helper()
	text, err := jwt.FormatUserConfig(token, []byte(seed))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// User is another user like pulse's, until a time.
func (s *Server) User(until time.Time) (token, seed string) { return s.user(s.permissions, until) }

func (s *Server) user(may jwt.Permissions, until time.Time) (token, seed string) {
	s.t.Helper()
	pair := key(s.t, nkeys.PrefixByteUser)
	claims := jwt.NewUserClaims(public(s.t, pair))
	claims.Permissions = may
	if !until.IsZero() {
		claims.Expires = until.Unix()
	}
	token, err := claims.Encode(s.account)
	if err != nil {
		s.t.Fatal(err)
	}
	text, err := pair.Seed()
	if err != nil {
		s.t.Fatal(err)
	}
	return token, string(text)
}

// Revoke what was signed for the key of a user's JWT.
func (s *Server) Revoke(token string) {
	s.t.Helper()
	user, err := jwt.DecodeUserClaims(token)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims.Revoke(user.Subject)
	signed, err := s.claims.Encode(s.operator)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.options.AccountResolver.Store(s.public, signed); err != nil {
		s.t.Fatal(err)
	}
	if s.running != nil {
		account, err := s.running.LookupAccount(s.public)
		if err != nil {
			s.t.Fatal(err)
		}
		s.running.UpdateAccountClaims(account, s.claims)
	}
}

// permissions are those of the user pulse on the platform, from the component nats.
func permissions(t testing.TB) (p jwt.Permissions) {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	text, err := os.ReadFile(filepath.Join(filepath.Dir(here), "../../../../infra/k8s/base/nats/component.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var component struct {
		Secrets []struct {
			NATSJWTs map[string]struct{ Publish, Subscribe []string } `yaml:"natsJWTs"`
		}
	}
	if err := yaml.Unmarshal(text, &component); err != nil {
		t.Fatal(err)
	}
	for _, secret := range component.Secrets {
		if u, ok := secret.NATSJWTs["pulse"]; ok {
			p.Pub.Allow, p.Sub.Allow = u.Publish, u.Subscribe
		}
	}
	if len(p.Pub.Allow) == 0 {
		t.Fatal("the component nats has no user pulse")
	}
	return p
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
	conn, err := nats.Connect(s.URL(), nats.UserCredentialBytes([]byte(s.observer)))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(conn.Close)
	sub, err := conn.SubscribeSync(hole)
	if err != nil {
		s.t.Fatal(err)
	}
	account, err := s.running.LookupAccount(s.public)
	if err := errors.Join(err, conn.Flush(), account.AddMapping(subject, hole)); err != nil {
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
