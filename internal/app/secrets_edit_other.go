//go:build !linux

package app

import "errors"

// inMemory needs a file system in memory.
func inMemory([]byte) (file string, shred func(), err error) {
	return "", nil, errors.New("here is no file system in memory, so that what is edited would reach a disk: use 'orrery secrets set', or sops")
}
