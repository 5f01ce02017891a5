package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/apps/pulse/internal/credential"
	"github.com/orrery-dev/orrery/apps/pulse/internal/natstest"
)

// fakeVault answers what pulse asks of a Vault, and revokes as Vault would.
type fakeVault struct {
	*httptest.Server
	t    testing.TB
	nats *natstest.Server

	mu              sync.Mutex
	life, ttl, most time.Duration // of a JWT; of a lease; of a lease with its renewals
	away, forbidden bool
	leases          map[string]*fakeLease // by token
	taken, renewed  int
	token           string // of the service account
}

type fakeLease struct {
	jwt          string
	since, until time.Time
}

func startVault(t testing.TB, server *natstest.Server) *fakeVault {
	t.Helper()
	v := &fakeVault{t: t, nats: server, life: time.Hour, ttl: time.Minute, most: time.Hour, leases: map[string]*fakeLease{}, token: "account"}
	v.Server = httptest.NewServer(http.HandlerFunc(v.serve))
	t.Cleanup(v.Close)
	return v
}

func (v *fakeVault) serve(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	say := func(status int, body any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}
	token := r.Header.Get("X-Vault-Token")
	var in map[string]string
	_ = json.NewDecoder(r.Body).Decode(&in)
	seconds := func(l *fakeLease) int {
		l.until = time.Now().Add(min(v.ttl, time.Until(l.since.Add(v.most))))
		return int(time.Until(l.until).Round(time.Second).Seconds())
	}
	l := v.leases[token]
	switch {
	case v.away:
		say(http.StatusServiceUnavailable, map[string]any{"errors": []string{"Vault is sealed"}})
	case v.forbidden:
		say(http.StatusForbidden, map[string]any{"errors": []string{"permission denied"}})
	case r.URL.Path == "/v1/auth/kubernetes/login":
		if in["role"] != "pulse" || in["jwt"] != v.token {
			say(http.StatusBadRequest, map[string]any{"errors": []string{"invalid token"}})
			return
		}
		token = fmt.Sprint("login ", len(v.leases))
		v.leases[token] = &fakeLease{since: time.Now()}
		say(http.StatusOK, map[string]any{"auth": map[string]any{"client_token": token, "lease_duration": seconds(v.leases[token])}})
	case l == nil:
		say(http.StatusForbidden, map[string]any{"errors": []string{"invalid token"}})
	case r.URL.Path == "/v1/nats/creds/pulse" && r.Method == http.MethodGet:
		until := time.Now().Add(v.life)
		user, seed := v.nats.User(until)
		l.jwt = user
		v.taken++
		say(http.StatusOK, map[string]any{"lease_id": "nats/creds/pulse/" + token, "lease_duration": seconds(l), "data": map[string]any{
			"jwt": user, "seed": seed, "expires_at": until.UTC().Format(time.RFC3339)}})
	case r.URL.Path == "/v1/auth/token/renew-self":
		say(http.StatusOK, map[string]any{"auth": map[string]any{"client_token": token, "lease_duration": seconds(l)}})
	case r.URL.Path == "/v1/sys/leases/renew" && in["lease_id"] == "nats/creds/pulse/"+token:
		v.renewed++
		say(http.StatusOK, map[string]any{"lease_id": in["lease_id"], "lease_duration": seconds(l)})
	case r.URL.Path == "/v1/auth/token/revoke-self":
		v.revoke(token)
		w.WriteHeader(http.StatusNoContent)
	default:
		say(http.StatusNotFound, map[string]any{"errors": []string{r.URL.Path}})
	}
}

func (v *fakeVault) revoke(token string) {
	if l := v.leases[token]; l != nil && l.jwt != "" {
		v.nats.Revoke(l.jwt)
	}
	v.leases[token] = nil
}

func (v *fakeVault) set(f func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f()
}

// use has a process take its credential there; without file it has no other.
func (v *fakeVault) use(file bool) func(*config) {
	token := filepath.Join(v.t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("account\n"), 0o600); err != nil {
		v.t.Fatal(err)
	}
	return func(c *config) {
		c.credential.Vault = credential.Vault{Address: v.URL, TokenFile: token, Login: "auth/kubernetes/login", Role: "pulse", Path: "nats/creds/pulse"}
		if !file {
			c.credential.File = ""
		}
	}
}

// metric waits until a process says a line of its metrics.
func (p *process) metric(line string) {
	p.t.Helper()
	eventually(p.t, func() error {
		if _, body := get(p.t, p.admin+"/metrics"); !strings.Contains(body, line) {
			var said []string
			for l := range strings.Lines(body) {
				if strings.HasPrefix(l, "pulse_credential") {
					said = append(said, l)
				}
			}
			return fmt.Errorf("metrics do not say %s, but %s", line, said)
		}
		return nil
	})
}

// TestCredentialsChangeWhileEventsFlow: leases of a second or two are renewed, replaced and revoked, and
// every event that was answered with 200 or 202 is delivered once.
func TestCredentialsChangeWhileEventsFlow(t *testing.T) {
	server := natstest.Start(t)
	v := startVault(t, server)
	v.ttl, v.most = 2*time.Second, 3*time.Second
	in, out := start(t, server, "ingest", v.use(false)), start(t, server, "worker", v.use(false))
	in.ready()
	out.ready()
	var kept, refused, n int
	// Longer than two lives of a credential; the pause is the pace of a producer, not a wait for anything.
	for end := time.Now().Add(8 * time.Second); time.Now().Before(end); time.Sleep(3 * time.Millisecond) {
		n++
		for {
			status, _ := in.post("rotation", n, n)
			if status == http.StatusOK {
				break
			}
			if status == http.StatusAccepted {
				kept++
				break
			}
			refused++
		}
	}
	a := out.settled("rotation", uint64(n))
	v.mu.Lock()
	defer v.mu.Unlock()
	t.Logf("%d events, %d kept for a while, %d refused; %d credentials, %d renewals; account %+v", n, kept, refused, v.taken, v.renewed, a)
	if v.taken < 6 || v.renewed < 2 {
		t.Errorf("%d credentials were taken and %d renewed: the test missed", v.taken, v.renewed)
	}
}

// TestVaultAway: without Vault a credential lasts as long as its JWT, which the metrics say; then there is
// the file's, or none until Vault is back.
func TestVaultAway(t *testing.T) {
	for _, test := range []struct {
		name  string
		file  bool
		after string
	}{{"with a file", true, "file"}, {"without", false, "none"}} {
		t.Run(test.name, func(t *testing.T) {
			server := natstest.Start(t)
			v := startVault(t, server)
			v.ttl, v.life = 2*time.Second, 6*time.Second
			in := start(t, server, "ingest", v.use(test.file))
			in.ready()
			in.metric(`pulse_credential_source{source="vault"} 1`)
			v.set(func() { v.away = true })
			in.metric(`pulse_credential_vault_up 0`)
			in.metric(`pulse_credential_source{source="vault"} 1`)
			if status, _ := in.post("away", 1, 1); status != http.StatusOK {
				t.Errorf("while the credential lasts: %d", status)
			}
			in.metric(fmt.Sprintf(`pulse_credential_source{source=%q} 1`, test.after))
			if test.file {
				in.ready()
			} else {
				eventually(t, func() error {
					if status, _ := get(t, in.admin+"/readyz"); status == http.StatusOK {
						return errors.New("ready without a credential")
					}
					return nil
				})
				if status, _ := in.post("away", 2, 2); status != http.StatusAccepted {
					t.Errorf("without a credential: %d", status)
				}
			}
			v.set(func() { v.away = false })
			in.metric(`pulse_credential_source{source="vault"} 1`)
			in.metric(`pulse_credential_vault_up 1`)
			in.ready()
		})
	}
}

// TestVaultComesLater: the file's credential is used until Vault gives one, also when it says no at first.
func TestVaultComesLater(t *testing.T) {
	server := natstest.Start(t)
	v := startVault(t, server)
	v.forbidden = true
	in := start(t, server, "ingest", v.use(true))
	in.ready()
	in.metric(`pulse_credential_source{source="file"} 1`)
	v.set(func() { v.forbidden = false })
	in.metric(`pulse_credential_source{source="vault"} 1`)
	in.ready()
	if strings.Contains(in.log.String(), "SU") && strings.Contains(in.log.String(), "eyJ") {
		t.Error("the log has a credential")
	}
}

// TestRevoked: who has the credential taken away takes the next one.
func TestRevoked(t *testing.T) {
	server := natstest.Start(t)
	v := startVault(t, server)
	in := start(t, server, "ingest", v.use(false))
	in.ready()
	time.Sleep(5100 * time.Millisecond) // a younger one would be kept for a while
	v.set(func() {
		for token := range v.leases {
			v.revoke(token)
		}
	})
	eventually(t, func() error {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.taken < 2 {
			return errors.New("no other credential was taken")
		}
		return nil
	})
	in.ready()
}

// TestGivenBack: a process that ends leaves nothing behind in Vault.
func TestGivenBack(t *testing.T) {
	server := natstest.Start(t)
	v := startVault(t, server)
	in := start(t, server, "ingest", v.use(false))
	in.ready()
	if err := in.stop(); err != nil {
		t.Fatal(err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for token, l := range v.leases {
		if l != nil {
			t.Errorf("%s is still there", token)
		}
	}
}
