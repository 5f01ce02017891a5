package kubeconfig

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// owned has what is made at path belong to the owner of like.
func owned(path string, like fs.FileInfo, do func() error) error {
	if err := do(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	of, ok := like.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 { // what anybody else makes is theirs
		return nil
	}
	if err := os.Lchown(path, int(of.Uid), int(of.Gid)); err != nil {
		return fmt.Errorf("give %s to its owner: %w", path, err)
	}
	return nil
}
