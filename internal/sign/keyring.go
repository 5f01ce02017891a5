package sign

import "errors"

// errNoEntry: the keyring works and does not have it, or no longer.
var errNoEntry = errors.New("no such entry in the keyring")

// keyring keeps small secrets by name. An entry lives until it is removed or the machine
// starts again.
type keyring interface {
	get(name string) ([]byte, error) // errNoEntry when there is none
	set(name string, secret []byte) error
	remove(name string) error // fine when there is none
}
