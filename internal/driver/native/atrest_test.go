package native

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// Wherever an exchange of keys was interrupted, the keys alone say how it goes on.
func TestRotationGoesOn(t *testing.T) {
	k1, k2, k10 := newAtRestKey("key1"), newAtRestKey("key2"), newAtRestKey("key10")
	for name, c := range map[string]struct {
		ring         keyring
		old, new     string
		writes, fail bool
	}{
		"begun":               {keyring{k1}, "key1", "key2", false, false},
		"read everywhere":     {keyring{k1, k2}, "key1", "key2", false, false},
		"written":             {keyring{k2, k1}, "key2", "key1", true, false},
		"by number, not text": {keyring{k10, k2}, "key10", "key2", true, false},
		"again":               {keyring{k10}, "key10", "key11", false, false},
		"three":               {keyring{k1, k2, k10}, "", "", false, true},
	} {
		at, err := newRotation(c.ring)
		if c.writes {
			c.old, c.new = c.new, c.old
		}
		if (err != nil) != c.fail || at.old.name != c.old || at.new.name != c.new || at.writes != c.writes {
			t.Errorf("%s: %s to %s, writes %t, %v", name, at.old.name, at.new.name, at.writes, err)
		}
	}
}

func TestKeyring(t *testing.T) {
	k1, k2 := newAtRestKey("key1"), newAtRestKey("key2")
	if r, err := parseKeyring("f", []byte(k1.secret)); err != nil || len(r) != 1 || r[0] != k1 {
		t.Errorf("from before keys had names: %v, %v", r, err)
	}
	r, err := parseKeyring("f", []byte(keyring{k2, k1}.String()))
	if err != nil || !slices.Equal(r, keyring{k2, k1}) {
		t.Errorf("%v, %v", r, err)
	}
	if got := configuredKeys(r.config()); !slices.Equal(got, r) {
		t.Errorf("of a server's file: %v", got)
	}
	for _, bad := range []string{"", "key1", "key1 short", "key1 " + k1.secret + "\nkey1 " + k2.secret, "a:b " + k1.secret, "key1 " + k1.secret + " x"} {
		if _, err := parseKeyring("f", []byte(bad)); err == nil || !strings.Contains(err.Error(), "is damaged") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// A server that is behind, or ahead, of an exchange of keys has lost none; another key is told.
func TestKeysOfAServerDuringARotation(t *testing.T) {
	p, c := paths(t.TempDir()), testCluster(t)
	if _, err := materialize(&issuer{now: time.Now}, p, c); err != nil {
		t.Fatal(err)
	}
	ring, err := readKeyring(p.pki(keyringFile))
	if err != nil {
		t.Fatal(err)
	}
	next := ring.next()
	for name, r := range map[string]keyring{"reads": {ring[0], next}, "writes": {next, ring[0]}} {
		if err := os.WriteFile(p.pki(keyringFile), []byte(r.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := lostKeys(p, c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	at := p.nodeEtc("server1", "kubernetes", "pki", atRestConfig)
	if err := os.WriteFile(at, keyring{newAtRestKey("key3")}.config(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := lostKeys(p, c); err == nil || !strings.Contains(err.Error(), keyringFile+" is not the one that the servers have") {
		t.Errorf("another key: %v", err)
	}
}

// Every key below a prefix is read once, over all pages.
func TestEtcdPages(t *testing.T) {
	keys := []string{"/r/a", "/r/b", "/r/c"}
	ask := etcdValues(func(_ context.Context, body, into any) error {
		from := string(body.(map[string]any)["key"].([]byte))
		var page etcdRange
		for i, k := range keys {
			if k < from {
				continue
			}
			b, _ := json.Marshal(map[string]any{"more": i < len(keys)-1, "kvs": []map[string]any{{"key": []byte(k), "value": []byte("v")}}})
			if err := json.Unmarshal(b, &page); err != nil {
				return err
			}
			break
		}
		*into.(*etcdRange) = page
		return nil
	})
	var got []string
	if err := ask.each(t.Context(), "/r/", func(k string, _ []byte) { got = append(got, k) }); err != nil || !slices.Equal(got, keys) {
		t.Errorf("%v, %v", got, err)
	}
}

// Rules come in an order in which no content of a Secret, a ConfigMap or a token is written down.
func TestAuditPolicyWritesNoContents(t *testing.T) {
	if strings.Contains(auditPolicy, "RequestResponse") {
		t.Error("answers are written down")
	}
	request := strings.Index(auditPolicy, "level: Request\n")
	for _, r := range []string{"resources: [secrets]", "configmaps, serviceaccounts/token", "authentication.k8s.io"} {
		if at := strings.Index(auditPolicy, r); at < 0 || at > request {
			t.Errorf("%s is not decided before the rule with contents", r)
		}
	}
}
