package sign

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// kernelKeyring is the user keyring (@u in keyctl) of whoever calls: the kernel keeps it
// for the user and not for a session, it is never written to a disk, and every process of
// that user finds it. The persistent keyring, which would be the other candidate, forgets
// after three days without use.
type kernelKeyring struct{}

const (
	keyType = "user"
	// permissions of an entry: everything for whoever possesses it and for its owner. By
	// default only a process that has it in its session may read it, which a command that
	// is started tomorrow has not.
	keyPermissions = 0x3f3f0000
)

func (kernelKeyring) get(name string) ([]byte, error) {
	id, err := find(name)
	if err != nil {
		return nil, err
	}
	secret := make([]byte, 1024)
	n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, id, secret, 0)
	switch {
	case gone(err):
		return nil, errNoEntry
	case err != nil:
		return nil, fmt.Errorf("read %q from the keyring: %w", name, err)
	case n > len(secret):
		return nil, fmt.Errorf("read %q from the keyring: it has %d bytes, and is not ours", name, n)
	}
	return secret[:n], nil
}

func (k kernelKeyring) set(name string, secret []byte) error {
	fail := func(err error) error { return fmt.Errorf("put %q into the keyring: %w", name, err) }
	// An entry that was made with other permissions cannot be updated.
	if err := k.remove(name); err != nil {
		return fail(err)
	}
	// Permissions can be set by who possesses the entry, that is, has it in a keyring of the
	// thread: there it is made, and linked into the user's from there.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	id, err := unix.AddKey(keyType, name, secret, unix.KEY_SPEC_THREAD_KEYRING)
	if err != nil {
		return fail(err)
	}
	if err := unix.KeyctlSetperm(id, keyPermissions); err != nil {
		return fail(err)
	}
	if _, err := unix.KeyctlInt(unix.KEYCTL_LINK, id, unix.KEY_SPEC_USER_KEYRING, 0, 0); err != nil {
		return fail(err)
	}
	_, err = unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_THREAD_KEYRING, 0, 0)
	if err != nil {
		return fail(err)
	}
	return nil
}

func (kernelKeyring) remove(name string) error {
	id, err := find(name)
	if errors.Is(err, errNoEntry) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_USER_KEYRING, 0, 0); err != nil && !gone(err) {
		return fmt.Errorf("remove %q from the keyring: %w", name, err)
	}
	return nil
}

func find(name string) (int, error) {
	id, err := unix.KeyctlSearch(unix.KEY_SPEC_USER_KEYRING, keyType, name, 0)
	switch {
	case err == nil:
		return id, nil
	case gone(err):
		return 0, errNoEntry
	}
	return 0, fmt.Errorf("look for %q in the keyring: %w", name, err)
}

// gone: absent, expired or revoked.
func gone(err error) bool {
	return errors.Is(err, unix.ENOKEY) || errors.Is(err, unix.EKEYEXPIRED) || errors.Is(err, unix.EKEYREVOKED)
}
