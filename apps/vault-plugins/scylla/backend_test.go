package scylla

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"go.uber.org/goleak"
)

// A module below Vault's SDK starts one worker for good.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start"))
}

// mount is the engine, as Vault holds it.
type mount struct {
	t       testing.TB
	engine  *backend
	storage logical.Storage
}

func newMount(t testing.TB, s *server) *mount {
	t.Helper()
	m := &mount{t: t, storage: &logical.InmemStorage{}}
	config := logical.TestBackendConfig()
	config.StorageView = m.storage
	engine, err := Factory(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	m.engine = engine.(*backend)
	m.must(logical.UpdateOperation, "config", map[string]any{"hosts": s.address(), "username": "maker", "password": "first"})
	m.must(logical.UpdateOperation, "roles/shop", map[string]any{
		"statements": []string{`GRANT SELECT ON KEYSPACE shop TO "{{name}}"`, `GRANT MODIFY ON KEYSPACE shop TO "{{name}}"`}, "ttl": 60, "max_ttl": 600,
	})
	return m
}

func (m *mount) request(r *logical.Request) (*logical.Response, error) {
	r.Storage = m.storage
	response, err := m.engine.HandleRequest(context.WithoutCancel(m.t.Context()), r)
	if err == nil && response.IsError() {
		err = response.Error()
	}
	return response, err
}

func (m *mount) do(op logical.Operation, path string, data map[string]any) (*logical.Response, error) {
	return m.request(&logical.Request{Operation: op, Path: path, Data: data})
}

func (m *mount) must(op logical.Operation, path string, data map[string]any) *logical.Response {
	m.t.Helper()
	response, err := m.do(op, path, data)
	if err != nil {
		m.t.Fatalf("%s %s: %v", op, path, err)
	}
	return response
}

// login as a role, with the engine's own client.
func login(s *server, name, password string) (session, error) {
	return open(&config{Hosts: []string{s.address()}, Username: name, Password: password})
}

// TestLease: the role may log in and has its grants, until the lease ends.
func TestLease(t *testing.T) {
	s := startServer(t)
	m := newMount(t, s)
	response := m.must(logical.ReadOperation, "creds/shop", nil)
	name, password := response.Data["username"].(string), response.Data["password"].(string)
	if r := s.role(name); r == nil || strings.Join(r.grants, ";") != "SELECT ON KEYSPACE shop;MODIFY ON KEYSPACE shop" {
		t.Fatalf("role %+v; ran %s", r, s)
	}
	client, err := login(s, name, password)
	if err != nil {
		t.Fatal(err)
	}
	defer client.close()
	if other := m.must(logical.ReadOperation, "creds/shop", nil).Data; other["username"] == name || other["password"] == password {
		t.Error("two leases have one credential")
	}
	if _, err := m.request(&logical.Request{Operation: logical.RenewOperation, Secret: response.Secret}); err != nil || response.Secret.TTL != time.Minute {
		t.Errorf("renewed for %v: %v", response.Secret.TTL, err)
	}
	for range 2 { // Vault may not know that the first went well
		if _, err := m.request(&logical.Request{Operation: logical.RevokeOperation, Secret: response.Secret}); err != nil {
			t.Fatal(err)
		}
	}
	if s.role(name) != nil {
		t.Error("the role is still there")
	}
	if again, err := login(s, name, password); err == nil {
		again.close()
		t.Error("the credential still works")
	}
	if err := client.exec(t.Context(), "GRANT x TO \"maker\""); err == nil {
		t.Error("a session that was open goes on")
	}
}

// TestHalfMade: what was made before a statement failed goes, at once or when Vault cleans up.
func TestHalfMade(t *testing.T) {
	s := startServer(t)
	m := newMount(t, s)
	for _, fail := range []string{"MODIFY", "CREATE"} {
		s.fail = fail
		_, err := m.do(logical.ReadOperation, "creds/shop", nil)
		if err == nil || !strings.Contains(err.Error(), "refused by the test") || strings.Contains(err.Error(), "PASSWORD") {
			t.Errorf("error = %v", err)
		}
		if len(s.roles) != 1 {
			t.Errorf("%s fails: roles %v", fail, s.roles)
		}
		if left, err := framework.ListWAL(t.Context(), m.storage); err != nil || len(left) != 0 {
			t.Errorf("left to do: %v, %v", left, err)
		}
	}
	// Nothing can be dropped either: Vault does it later.
	m.engine.open = func(c *config) (session, error) {
		real, err := open(c)
		return broken{real}, err
	}
	s.fail = ""
	if _, err := m.do(logical.ReadOperation, "creds/shop", nil); err == nil {
		t.Fatal("no error")
	}
	left, err := framework.ListWAL(t.Context(), m.storage)
	if err != nil || len(left) != 1 || len(s.roles) != 2 {
		t.Fatalf("left to do: %v, %v; roles %v", left, err, s.roles)
	}
	m.engine.open = open
	wal, err := framework.GetWAL(t.Context(), m.storage, left[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := m.engine.rollback(t.Context(), &logical.Request{Storage: m.storage}, wal.Kind, wal.Data); err != nil || len(s.roles) != 1 {
		t.Errorf("%v; roles %v", err, s.roles)
	}
}

// broken makes roles and does nothing else.
type broken struct{ session }

func (b broken) exec(ctx context.Context, statement string) error {
	if !strings.HasPrefix(statement, "CREATE") {
		return errors.New("broken")
	}
	return b.session.exec(ctx, statement)
}

// TestRotate: the maker's password is Vault's alone, and no crash on the way loses it.
func TestRotate(t *testing.T) {
	s := startServer(t)
	m := newMount(t, s)
	m.must(logical.UpdateOperation, "config/rotate", nil)
	if s.role("maker").password == "first" {
		t.Fatal("not rotated")
	}
	m.must(logical.ReadOperation, "creds/shop", nil)
	// It was altered, and Vault died before it wrote that down.
	c, err := loadConfig(t.Context(), m.storage)
	if err != nil {
		t.Fatal(err)
	}
	c.Next = c.Password
	c.Password = "before"
	if err := c.save(t.Context(), m.storage); err != nil {
		t.Fatal(err)
	}
	m.must(logical.ReadOperation, "creds/shop", nil)
	if c, err := loadConfig(t.Context(), m.storage); err != nil || c.Next != "" {
		t.Errorf("%+v, %v", c.Next, err)
	}
	if data := m.must(logical.ReadOperation, "config", nil).Data; data["password"] != nil {
		t.Error("reading the configuration tells the password")
	}
}

// TestRefused: what cannot work is not kept.
func TestRefused(t *testing.T) {
	s := startServer(t)
	m := newMount(t, s)
	for name, config := range map[string]map[string]any{
		"wrong password": {"hosts": s.address(), "username": "maker", "password": "wrong"},
		"a quote":        {"hosts": s.address(), "username": `ma"ker`, "password": "first"},
		"nobody there":   {"hosts": "127.0.0.1:1", "username": "maker", "password": "first"},
		"no authority":   {"hosts": s.address(), "username": "maker", "password": "first", "ca": "x"},
	} {
		if _, err := m.do(logical.UpdateOperation, "config", config); err == nil {
			t.Errorf("%s: kept", name)
		}
	}
	for name, role := range map[string]map[string]any{
		"nothing":       {},
		"for somebody":  {"statements": []string{"GRANT ALL ON ALL KEYSPACES TO other"}},
		"ttl > max_ttl": {"statements": []string{"{{name}}"}, "ttl": 2, "max_ttl": 1},
	} {
		if _, err := m.do(logical.UpdateOperation, "roles/x", role); err == nil {
			t.Errorf("%s: kept", name)
		}
	}
	if _, err := m.do(logical.ReadOperation, "creds/x", nil); err == nil {
		t.Error("a credential without a role")
	}
	bad := &logical.Request{Operation: logical.RevokeOperation, Secret: &logical.Secret{InternalData: map[string]any{"secret_type": "scylla_role", "username": `x"; DROP`}}}
	if _, err := m.request(bad); err == nil {
		t.Error("a name that is none of ours went to the database")
	}
}
