// Package natsjwttest makes keys of NATS for tests. It must never be linked into a program.
package natsjwttest

import (
	"testing"

	"github.com/nats-io/nkeys"
)

// Key is a key pair.
type Key struct {
	Public string
	Seed   []byte
}

// NewKey makes one of a kind.
func NewKey(tb testing.TB, kind nkeys.PrefixByte) Key {
	tb.Helper()
	pair, err := nkeys.CreatePair(kind)
	if err != nil {
		tb.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		tb.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		tb.Fatal(err)
	}
	return Key{public, seed}
}
