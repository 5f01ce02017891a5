package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// folders of volumes, all of them direct children of one. Whatever symbolic links lie in
// them, nothing outside is touched.
type folders struct {
	root *os.Root
}

func openFolders(dir string) (folders, error) {
	if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || dir == "/" {
		return folders{}, fmt.Errorf("folder %q: want a clean absolute path below /", dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return folders{}, fmt.Errorf("open the volumes' folder: %w", err)
	}
	return folders{root}, nil
}

// create makes a folder, or finds it made, and returns its path.
func (f folders) create(name string) (string, error) {
	if name == "" || name == "." || name == ".." || strings.ContainsRune(name, '/') {
		return "", fmt.Errorf("%q is no name of a folder", name)
	}
	if err := f.root.Mkdir(name, 0o777); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("make the volume's folder: %w", err)
	}
	info, err := f.root.Lstat(name)
	if err != nil {
		return "", fmt.Errorf("make the volume's folder: %w", err)
	}
	path := filepath.Join(f.root.Name(), name)
	if !info.IsDir() {
		return "", fmt.Errorf("make the volume's folder: %s exists and is none", path)
	}
	// Every user of a pod may write, as with an emptyDir; Mkdir was subject to the umask.
	if err := f.root.Chmod(name, 0o777); err != nil {
		return "", fmt.Errorf("open the volume to all users: %w", err)
	}
	return path, nil
}

// remove removes the folder at path and all in it. One that is gone already is no error.
func (f folders) remove(path string) error {
	if filepath.Clean(path) != path || filepath.Dir(path) != f.root.Name() {
		return fmt.Errorf("%q does not lie directly in %s: nothing is removed", path, f.root.Name())
	}
	if err := f.root.RemoveAll(filepath.Base(path)); err != nil {
		return fmt.Errorf("remove the volume's folder: %w", err)
	}
	return nil
}
