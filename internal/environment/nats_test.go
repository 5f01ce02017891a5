package environment

import (
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/orrery-dev/orrery/internal/filelock"
	"github.com/orrery-dev/orrery/internal/natsjwt/natsjwttest"
)

// secret puts a Secret of Orrery's into the cluster.
func (s *small) secret(namespace, name string, entries map[string]string) {
	s.t.Helper()
	data := map[string]any{}
	for key, value := range entries {
		data[key] = base64.StdEncoding.EncodeToString([]byte(value))
	}
	o := manifest(s.t, "v1", "Secret", namespace, name, map[string]any{"data": data})
	o.SetLabels(map[string]string{"orrery.dev/generated": "true"})
	o.SetAnnotations(map[string]string{"orrery.dev/issuers": "environment"})
	s.cluster.API.Put(o)
}

// What programs need for NATS is there while one process offers it: no other takes it over, and
// nothing is left of it. Of one that was killed nothing counts.
func TestOfferNATS(t *testing.T) {
	s := newSmall(t)
	s.mustUp(Selection{})
	p := s.open(Selection{})
	defer p.Close()
	client, err := p.Kube(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	offer := func(url string) (NATSAccess, func() error, error) { return p.OfferNATS(t.Context(), client, url) }
	refused := func(want string) {
		t.Helper()
		if _, end, err := offer("nats://x"); end != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if a, ok := p.NATSAccess(); ok {
			t.Errorf("%+v", a)
		}
		if _, err := os.Stat(filepath.Join(p.StateDir, "nats")); !os.IsNotExist(err) {
			t.Errorf("a folder was made: %v", err)
		}
	}
	refused("orrery deploy namespaces")
	s.secret("shop", "environment-authority", map[string]string{"ca.crt": "the authority"})
	refused("what signs for NATS' users")
	s.secret("messaging", "nats-keys", map[string]string{"app.pub": "A"})
	refused("orrery deploy nats")
	account, signing := natsjwttest.NewKey(t, nkeys.PrefixByteAccount), natsjwttest.NewKey(t, nkeys.PrefixByteAccount)
	s.secret("messaging", "nats-keys", map[string]string{"app.pub": account.Public, "app-signing.seed": string(signing.Seed)})

	mine, end, err := offer("nats://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	if a, ok := p.NATSAccess(); !ok || a != mine || a.URL != "nats://127.0.0.1:1" {
		t.Errorf("%+v, %t; offered %+v", a, ok, mine)
	}
	for file, want := range map[string]string{mine.Authority: "the authority", mine.Credentials: "BEGIN NATS USER JWT"} {
		text, err := os.ReadFile(file)
		if st, statErr := os.Stat(file); err != nil || statErr != nil || st.Mode().Perm() != 0o600 || !strings.Contains(string(text), want) {
			t.Errorf("%s: %v, %v", file, st, errors.Join(err, statErr))
		}
		if strings.Contains(string(text), string(signing.Seed)) {
			t.Errorf("%s has what signs", file)
		}
	}
	if _, _, err := offer("nats://127.0.0.1:2"); !errors.Is(err, filelock.ErrLocked) {
		t.Errorf("a second: %v", err)
	}
	if a, ok := p.NATSAccess(); !ok || a != mine {
		t.Errorf("the second took it over: %+v, %t", a, ok)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
	if _, ok := p.NATSAccess(); ok {
		t.Error("it is offered still")
	}
	if _, err := os.Stat(filepath.Dir(mine.Credentials)); !os.IsNotExist(err) {
		t.Errorf("a credential was left: %v", err)
	}
	// As it is after a kill: the files are there, the lock is nobody's.
	if err := os.MkdirAll(filepath.Join(p.StateDir, "nats"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"url", "lock"} {
		if err := os.WriteFile(filepath.Join(p.StateDir, "nats", file), []byte("nats://127.0.0.1:1"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if a, ok := p.NATSAccess(); ok {
		t.Errorf("of a process that is no more: %+v", a)
	}
}
