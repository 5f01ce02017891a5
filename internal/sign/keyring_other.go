//go:build !linux

package sign

import "errors"

// kernelKeyring: only Linux has one. Passwords that nobody gave are kept in a file, with a
// warning that says so.
type kernelKeyring struct{}

var errNoKeyring = errors.New("only Linux has one")

func (kernelKeyring) get(string) ([]byte, error) { return nil, errNoKeyring }
func (kernelKeyring) set(string, []byte) error   { return errNoKeyring }
func (kernelKeyring) remove(string) error        { return nil }
