package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"go.uber.org/goleak"
)

// A module below Vault's SDK starts one worker for good.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start"))
}

func write(t testing.TB, file, text string) string {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// mount is the engine, as Vault holds it.
type mount struct {
	t       testing.TB
	engine  logical.Backend
	storage logical.Storage
}

func newMount(t testing.TB) *mount {
	t.Helper()
	m := &mount{t: t, storage: &logical.InmemStorage{}}
	m.reload()
	return m
}

// reload is a Vault that was sealed and opened again.
func (m *mount) reload() {
	config := logical.TestBackendConfig()
	config.StorageView = m.storage
	engine, err := Factory(m.t.Context(), config)
	if err != nil {
		m.t.Fatal(err)
	}
	m.engine = engine
}

func (m *mount) do(op logical.Operation, path string, data map[string]any) (*logical.Response, error) {
	response, err := m.engine.HandleRequest(context.WithoutCancel(m.t.Context()), &logical.Request{Operation: op, Path: path, Data: data, Storage: m.storage})
	if err == nil && response.IsError() {
		err = response.Error()
	}
	return response, err
}

func (m *mount) must(op logical.Operation, path string, data map[string]any) map[string]any {
	m.t.Helper()
	response, err := m.do(op, path, data)
	if err != nil {
		m.t.Fatalf("%s %s: %v", op, path, err)
	}
	if response == nil {
		return nil
	}
	return response.Data
}

// lease of a credential.
type lease struct {
	mount  *mount
	creds  string
	secret *logical.Secret
}

func (m *mount) lease(role string) lease {
	m.t.Helper()
	response, err := m.do(logical.ReadOperation, "creds/"+role, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	// As Vault keeps it: what is internal goes through JSON.
	text := must(json.Marshal(response.Secret.InternalData))
	response.Secret.InternalData = nil
	if err := json.Unmarshal(text, &response.Secret.InternalData); err != nil {
		m.t.Fatal(err)
	}
	response.Secret.IssueTime = time.Now()
	return lease{m, response.Data["creds"].(string), response.Secret}
}

func (l lease) do(op logical.Operation) error {
	response, err := l.mount.engine.HandleRequest(context.WithoutCancel(l.mount.t.Context()),
		&logical.Request{Operation: op, Storage: l.mount.storage, Secret: l.secret})
	if err == nil && response.IsError() {
		err = response.Error()
	}
	return err
}

func (m *mount) configure(c *cluster) {
	m.t.Helper()
	m.must(logical.UpdateOperation, "config", map[string]any{
		"urls": c.urls(), "system_creds": c.creds, "operator_seed": seedOf(c.operator), "account": publicOf(c.app), "signing_seed": seedOf(c.sign),
	})
	m.must(logical.CreateOperation, "roles/all", map[string]any{"publish": ">", "subscribe": ">", "ttl": "1m", "max_ttl": "1h"})
}

// refused waits until it is, for a server that was away hears of it within some seconds.
func refused(t testing.TB, c *cluster, i int, creds string) {
	t.Helper()
	eventually(t, func() error {
		connection, err := c.login(i, creds)
		if err == nil {
			connection.Close()
			return fmt.Errorf("server %d lets it in", i)
		}
		if !errors.Is(err, nats.ErrAuthorization) {
			return err
		}
		return nil
	})
}

// TestLease: a credential works at every server, does what its role allows and no more; when it is
// revoked its connections are closed, and none of the servers takes it again, whatever restarts.
func TestLease(t *testing.T) {
	c := startCluster(t, 3)
	m := newMount(t)
	m.configure(c)
	m.must(logical.CreateOperation, "roles/narrow", map[string]any{"publish": []string{"in.*"}, "subscribe": []string{"_INBOX.>"}, "ttl": 60})
	narrow, other := m.lease("narrow"), m.lease("all")

	denied := make(chan error, 1)
	connection, err := c.login(0, narrow.creds, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { denied <- err }))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(connection.Publish("in.a", nil), connection.Flush()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(connection.Publish("out.a", nil), connection.Flush()); err != nil {
		t.Fatal(err)
	}
	if err := <-denied; !strings.Contains(strings.ToLower(err.Error()), "permissions violation") {
		t.Errorf("publishing beyond the role: %v", err)
	}
	closed := make(chan error, 3)
	for i := range 3 {
		connection, err := c.login(i, narrow.creds, nats.ClosedHandler(func(c *nats.Conn) { closed <- c.LastError() }))
		if err != nil {
			t.Fatalf("server %d: %v", i, err)
		}
		defer connection.Close()
	}
	stays, err := c.login(0, other.creds)
	if err != nil {
		t.Fatal(err)
	}

	start := time.Now()
	if err := narrow.do(logical.RevokeOperation); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		select {
		case err := <-closed:
			t.Logf("closed after %v: %v", time.Since(start).Round(time.Millisecond), err)
		case <-time.After(10 * time.Second):
			t.Fatal("a connection of a revoked credential stays")
		}
	}
	for i := range 3 {
		refused(t, c, i, narrow.creds)
	}
	if stays.IsClosed() || stays.Flush() != nil {
		t.Error("another lease's connection was closed too")
	}
	// A second time is no error: Vault may not know that the first went well.
	if err := narrow.do(logical.RevokeOperation); err != nil {
		t.Error(err)
	}

	// One that was away, then all: what is revoked stays so, what is not goes on.
	c.kill(2)
	late := m.lease("all")
	if err := late.do(logical.RevokeOperation); err != nil {
		t.Fatal(err)
	}
	c.start()
	refused(t, c, 2, late.creds)
	for i := range 3 {
		c.kill(i)
	}
	c.start()
	for i := range 3 {
		refused(t, c, i, narrow.creds)
		refused(t, c, i, late.creds)
		if _, err := c.login(i, other.creds); err != nil {
			t.Errorf("server %d after a restart: %v", i, err)
		}
	}
}

// TestExpiry: the servers end a credential by themselves, whatever became of Vault.
func TestExpiry(t *testing.T) {
	c := startCluster(t, 1)
	m := newMount(t)
	m.configure(c)
	m.must(logical.CreateOperation, "roles/short", map[string]any{"publish": ">", "subscribe": ">", "ttl": 1, "max_ttl": 2})
	short := m.lease("short")
	if short.secret.TTL != time.Second || short.secret.MaxTTL != 2*time.Second || !short.secret.Renewable {
		t.Errorf("lease: %+v", short.secret.LeaseOptions)
	}
	closed, said := make(chan struct{}), make(chan error, 4)
	if _, err := c.login(0, short.creds, nats.ClosedHandler(func(*nats.Conn) { close(closed) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { said <- err })); err != nil {
		t.Fatal(err)
	}
	select {
	case <-closed:
		if err := <-said; !errors.Is(err, nats.ErrAuthExpired) {
			t.Errorf("closed with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the connection outlives its JWT")
	}
	refused(t, c, 0, short.creds)
	// What has ended needs no revocation, and no server for it.
	c.kill(0)
	if err := short.do(logical.RevokeOperation); err != nil {
		t.Error(err)
	}
	if err := short.do(logical.RenewOperation); err == nil {
		t.Error("a credential that has ended was renewed")
	}
}

// TestRenew: the lease is prolonged, and never beyond its JWT.
func TestRenew(t *testing.T) {
	c := startCluster(t, 1)
	m := newMount(t)
	m.configure(c)
	l := m.lease("all")
	if err := l.do(logical.RenewOperation); err != nil || l.secret.TTL != time.Minute {
		t.Errorf("renewed for %v: %v", l.secret.TTL, err)
	}
	m.must(logical.UpdateOperation, "roles/all", map[string]any{"ttl": "40h", "max_ttl": "48h"})
	if err := l.do(logical.RenewOperation); err != nil || l.secret.TTL > time.Hour || l.secret.MaxTTL > time.Hour+time.Second {
		t.Errorf("renewed for %v, at most %v: %v", l.secret.TTL, l.secret.MaxTTL, err)
	}
	m.must(logical.DeleteOperation, "roles/all", nil)
	if err := l.do(logical.RenewOperation); err == nil {
		t.Error("renewed without its role")
	}
}

// TestRotation: users of the key before it stay, until nothing that it signed can live.
func TestRotation(t *testing.T) {
	c := startCluster(t, 2)
	m := newMount(t)
	m.configure(c)
	before := m.lease("all")
	key := m.must(logical.UpdateOperation, "config/rotate", nil)["signing_key"]
	after := m.lease("all")
	if issuer := must(jwt.DecodeUserClaims(must(jwt.ParseDecoratedJWT([]byte(after.creds))))).Issuer; issuer != key {
		t.Errorf("signed by %s, want %s", issuer, key)
	}
	for i := range 2 {
		for name, l := range map[string]lease{"before": before, "after": after} {
			if _, err := c.login(i, l.creds); err != nil {
				t.Errorf("server %d, signed %s: %v", i, name, err)
			}
		}
	}
	cfg := must(loadConfig(t.Context(), m.storage))
	cfg.Retired[0].Until = time.Now()
	if err := cfg.save(t.Context(), m.storage); err != nil {
		t.Fatal(err)
	}
	if err := m.do2(logical.RollbackOperation); err != nil {
		t.Fatal(err)
	}
	refused(t, c, 0, before.creds)
	if _, err := c.login(0, after.creds); err != nil {
		t.Error(err)
	}
	// Old revocations of the key that went do no harm, and new ones work.
	if err := after.do(logical.RevokeOperation); err != nil {
		t.Fatal(err)
	}
	refused(t, c, 1, after.creds)
}

// do2 is an operation without a path, such as Vault's of every minute.
func (m *mount) do2(op logical.Operation) error {
	_, err := m.engine.HandleRequest(context.WithoutCancel(m.t.Context()), &logical.Request{Operation: op, Storage: m.storage})
	return err
}

// TestConfigRefused: a configuration that cannot work, or would break the account, is not kept.
func TestConfigRefused(t *testing.T) {
	c := startCluster(t, 1)
	other := must(nkeys.CreateAccount())
	for _, test := range []struct {
		name string
		with map[string]any
		says string
	}{
		{"another account", map[string]any{"account": publicOf(other)}, "do not know account"},
		{"the system account", map[string]any{"account": publicOf(c.system)}, "does not have the signing key"},
		{"another operator", map[string]any{"operator_seed": seedOf(must(nkeys.CreateOperator()))}, "was signed by"},
		{"another signing key", map[string]any{"signing_seed": seedOf(other)}, "does not have the signing key"},
		{"the account's own key", map[string]any{"signing_seed": seedOf(c.app)}, "account's own key"},
		{"a user's seed", map[string]any{"signing_seed": seedOf(must(nkeys.CreateUser()))}, "must be account"},
		{"no seed", map[string]any{"operator_seed": "SOAXX"}, "no seed of an nkey"},
		{"a user of another account", map[string]any{"system_creds": c.userOf(c.app)}, "look up account"},
		{"nobody there", map[string]any{"urls": "nats://127.0.0.1:1"}, "connect to NATS"},
		{"no file of authorities", map[string]any{"ca_file": "/nowhere"}, "ca_file"},
		{"a JWT of no user", map[string]any{"system_jwt": "x", "system_seed": "y"}, "system_jwt"},
		{"a wrong authority", map[string]any{"ca": "x"}, "no certificate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMount(t)
			data := map[string]any{
				"urls": c.urls(), "system_creds": c.creds, "operator_seed": seedOf(c.operator), "account": publicOf(c.app), "signing_seed": seedOf(c.sign),
			}
			for k, v := range test.with {
				data[k] = v
			}
			_, err := m.do(logical.UpdateOperation, "config", data)
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Fatalf("%v; want it to say %q", err, test.says)
			}
			for _, seed := range []string{seedOf(c.operator), seedOf(c.sign), seedOf(other)} {
				if strings.Contains(err.Error(), seed) {
					t.Error("the error tells a seed")
				}
			}
			if m.must(logical.ReadOperation, "config", nil) != nil {
				t.Error("it was kept")
			}
			if _, err := m.do(logical.ReadOperation, "creds/all", nil); err == nil {
				t.Error("a credential was issued")
			}
		})
	}
	m := newMount(t)
	m.configure(c)
	token, pair := must(jwt.ParseDecoratedJWT([]byte(c.creds))), must(jwt.ParseDecoratedUserNKey([]byte(c.creds)))
	m.must(logical.UpdateOperation, "config", map[string]any{"system_jwt": token, "system_seed": seedOf(pair)})
	text := fmt.Sprint(m.must(logical.ReadOperation, "config", nil))
	for _, secret := range []string{seedOf(c.operator), seedOf(c.sign), "NATS USER JWT"} {
		if strings.Contains(text, secret) {
			t.Error("reading the configuration tells a secret")
		}
	}
	for _, role := range []map[string]any{
		{"publish": ">"}, {"publish": ">", "subscribe": "a b"}, {"publish": ">", "subscribe": ">", "ttl": 2, "max_ttl": 1},
	} {
		if _, err := m.do(logical.CreateOperation, "roles/wrong", role); err == nil {
			t.Errorf("role %v was kept", role)
		}
	}
}

// TestServersForget: servers that lost their volumes are told again, and Vault that was sealed knows.
func TestServersForget(t *testing.T) {
	c := startCluster(t, 1)
	m := newMount(t)
	m.configure(c)
	l := m.lease("all")
	c.kill(0)
	if err := l.do(logical.RevokeOperation); err == nil {
		t.Fatal("revoked without a server")
	}
	m.reload()
	c.start()
	if _, err := c.login(0, l.creds); err != nil {
		t.Fatalf("the fault missed: %v", err)
	}
	if err := m.do2(logical.RollbackOperation); err != nil {
		t.Fatal(err)
	}
	refused(t, c, 0, l.creds)
	// What has ended is forgotten, by the engine and by the servers.
	entry := must(logical.StorageEntryJSON(revokedPrefix+l.secret.InternalData["public_key"].(string), revocation{At: time.Now(), Expires: time.Now()}))
	if err := m.storage.Put(t.Context(), entry); err != nil {
		t.Fatal(err)
	}
	if err := m.do2(logical.RollbackOperation); err != nil {
		t.Fatal(err)
	}
	if left := must(revocations(t.Context(), m.storage)); len(left) > 0 {
		t.Errorf("kept: %v", left)
	}
	eventually(t, func() error {
		_, err := c.login(0, l.creds)
		return err
	})
}

// TestManyAtOnce: revocations that come together are pushed together.
func TestManyAtOnce(t *testing.T) {
	c := startCluster(t, 2)
	m := newMount(t)
	m.configure(c)
	const many = 40
	var leases []lease
	for range many {
		leases = append(leases, m.lease("all"))
	}
	errs := make([]error, many)
	start := time.Now()
	var all sync.WaitGroup
	for i := range leases {
		all.Go(func() { errs[i] = leases[i].do(logical.RevokeOperation) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d in %v", many, time.Since(start).Round(time.Millisecond))
	for _, l := range leases {
		refused(t, c, 1, l.creds)
	}
}
