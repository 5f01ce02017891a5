package atomicfile

import (
	"fmt"
	"os"
)

// Replace makes target out of what make makes under a temporary name beside it: a file, or a
// link. What must survive a power loss, make has on the disk before it returns. A failure
// leaves what was there, and nothing else.
func Replace(target string, make func(tmp string) error) error {
	if err := replaceable(target); err != nil {
		return err
	}
	tmp := fmt.Sprintf("%s.tmp%d", target, os.Getpid())
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := make(tmp); err != nil {
		os.RemoveAll(tmp)
		return err
	}
	if err := os.Rename(tmp, target); err != nil {
		os.RemoveAll(tmp)
		return err
	}
	return nil
}
