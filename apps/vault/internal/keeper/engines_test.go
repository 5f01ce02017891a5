package keeper

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"
)

// TestEngines: our own engines are linked in, the keeper may set them up, and the check may take a
// user of NATS. Whether servers believe it is tested with the engine, and by `orrery verify`.
func TestEngines(t *testing.T) {
	k := newKubernetes(t)
	n := startVault(t, t.TempDir(), someKey).run(t)
	keeper := as(t, k, n, "vault-keeper", "keeper")
	pair := func(kind nkeys.PrefixByte) (public, seed string) {
		p, err := nkeys.CreatePair(kind)
		if err != nil {
			t.Fatal(err)
		}
		public, err = p.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		bytes, err := p.Seed()
		if err != nil {
			t.Fatal(err)
		}
		return public, string(bytes)
	}
	account, _ := pair(nkeys.PrefixByteAccount)
	_, operator := pair(nkeys.PrefixByteOperator)
	_, signing := pair(nkeys.PrefixByteAccount)
	file := fmt.Sprintf(`
mounts:
  nats: {type: nats, config: {default_lease_ttl: 600s, max_lease_ttl: 21600s}}
  scylla: {type: scylla}
  foundationdb: {type: foundationdb}
write:
  - path: nats/config
    data: {urls: ["nats://127.0.0.1:1"], account: %s, system_creds: none, operator_seed: %s, signing_seed: %s, verify: false}
  - path: nats/roles/check
    data: {publish: [a], subscribe: [a], ttl: 5s, max_ttl: 60s}
`, account, operator, signing)
	if err := os.WriteFile(filepath.Join(keeper.o.Config, "nats.yaml"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	_ = until(t, newPass(t, k, keeper), settled)
	c, err := as(t, k, n, "vault-check", "check").login(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l, err := takeNATS(t.Context(), c)
	if err != nil || l.ttl.Seconds() != 5 || !strings.Contains(l.creds, "NATS USER JWT") {
		t.Errorf("a user of NATS: %v, for %s", err, l.ttl)
	}
}
