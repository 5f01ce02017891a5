package natsjwt

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/orrery-dev/orrery/internal/natsjwt/natsjwttest"
)

// TestSign: each kind of key says what it should, and is signed again only when that, or who signs, changes.
func TestSign(t *testing.T) {
	operator, other := natsjwttest.NewKey(t, nkeys.PrefixByteOperator), natsjwttest.NewKey(t, nkeys.PrefixByteOperator)
	account, signing, user := natsjwttest.NewKey(t, nkeys.PrefixByteAccount), natsjwttest.NewKey(t, nkeys.PrefixByteAccount), natsjwttest.NewKey(t, nkeys.PrefixByteUser)
	for _, test := range []struct {
		name    string
		issuer  natsjwttest.Key
		claim   Claim
		changed func(Claim) Claim
		check   func(token string) bool
	}{
		{"operator", operator, Claim{Name: "o", Subject: operator.Public, SystemAccount: account.Public, SigningKeys: []string{other.Public}},
			func(c Claim) Claim { c.SigningKeys = nil; return c },
			func(token string) bool {
				c, err := jwt.DecodeOperatorClaims(token)
				return err == nil && c.SystemAccount == account.Public && c.DidSign(c) && c.SigningKeys.Contains(other.Public)
			}},
		{"account", operator, Claim{Name: "a", Subject: account.Public, JetStream: true, SigningKeys: []string{signing.Public}},
			func(c Claim) Claim { c.JetStream = false; return c },
			func(token string) bool {
				c, err := jwt.DecodeAccountClaims(token)
				return err == nil && c.Issuer == operator.Public && c.Limits.IsJSEnabled() && c.SigningKeys.Contains(signing.Public)
			}},
		{"user", signing, Claim{Name: "u", Subject: user.Public, Account: account.Public, Publish: []string{"b", "a"}, Subscribe: []string{"c"}},
			func(c Claim) Claim { c.Publish = []string{"a"}; return c },
			func(token string) bool {
				c, err := jwt.DecodeUserClaims(token)
				return err == nil && c.IssuerAccount == account.Public && len(c.Pub.Allow) == 2 && c.Sub.Allow.Contains("c")
			}},
	} {
		t.Run(test.name, func(t *testing.T) {
			sign := func(c Claim, by natsjwttest.Key, existing string) string {
				t.Helper()
				token, err := c.Sign(by.Seed, existing)
				if err != nil {
					t.Fatal(err)
				}
				return token
			}
			token := sign(test.claim, test.issuer, "")
			if !test.check(token) {
				t.Error(token)
			}
			if again := sign(test.claim, test.issuer, token); again != token {
				t.Error("signed again without need")
			}
			if again := sign(test.changed(test.claim), test.issuer, token); again == token {
				t.Error("a change was not signed")
			}
			for _, damaged := range []string{"x", token[:len(token)-4] + "AAAA"} {
				if again := sign(test.claim, test.issuer, damaged); !test.check(again) {
					t.Error("what is damaged was kept")
				}
			}
			if test.name == "account" {
				if again := sign(test.claim, other, token); again == token {
					t.Error("another issuer did not sign")
				}
			}
		})
	}
	creds, err := Creds("a.b.c", user.Seed)
	if err == nil && !strings.Contains(string(creds), string(user.Seed)) {
		t.Error("no seed in the credentials")
	}
	for name, c := range map[string]Claim{"no key": {Subject: "x"}, "a server's": {Subject: natsjwttest.NewKey(t, nkeys.PrefixByteServer).Public}} {
		if _, err := c.Sign(operator.Seed, ""); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	if _, err := (Claim{Subject: user.Public}).Sign([]byte("SU"), ""); err == nil || strings.Contains(err.Error(), "SU\"") {
		t.Errorf("error = %v", err)
	}
	// A user's key may sign nothing.
	if _, err := (Claim{Subject: account.Public}).Sign(user.Seed, ""); err == nil {
		t.Error("a user signed an account")
	}
}

// TestEndingUser: a user of a new key, that ends when it was said.
func TestEndingUser(t *testing.T) {
	account := natsjwttest.NewKey(t, nkeys.PrefixByteAccount)
	public, seed, err := NewUser()
	if err != nil {
		t.Fatal(err)
	}
	if pair, err := nkeys.FromSeed(seed); err != nil {
		t.Fatal(err)
	} else if got, _ := pair.PublicKey(); got != public || nkeys.Prefix(public) != nkeys.PrefixByteUser {
		t.Errorf("the seed is of %s, not of %s", got, public)
	}
	end := time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)
	token, err := Claim{Subject: public, Account: account.Public, Expires: end}.Sign(account.Seed, "")
	if err != nil {
		t.Fatal(err)
	}
	if c, err := jwt.DecodeUserClaims(token); err != nil || c.Expires != end.Unix() {
		t.Errorf("%+v, %v", c, err)
	}
}
