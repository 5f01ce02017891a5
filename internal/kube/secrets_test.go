package kube

import (
	"testing"

	"github.com/nats-io/nkeys"
)

// A pair that is wiped clears the bytes that it handed out, or was made from.
func TestSeedOutlivesItsPair(t *testing.T) {
	seed, err := newSeed("user")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // publicOf must leave the seed as it is
		public, err := publicOf(seed)
		if err != nil {
			t.Fatal(err)
		}
		if !nkeys.IsValidPublicUserKey(string(public)) {
			t.Fatalf("%q is no public user key", public)
		}
	}
}

func TestNewPassword(t *testing.T) {
	if p, q := newPassword(40), newPassword(40); len(p) != 40 || string(p) == string(q) {
		t.Errorf("passwords %q and %q", p, q)
	}
}
