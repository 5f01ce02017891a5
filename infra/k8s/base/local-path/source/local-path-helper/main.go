// Command local-path-helper makes and removes the folder of one volume. The local-path
// provisioner runs it in a helper pod on the volume's node, in place of the shell
// scripts that it runs by default, so that the image needs no shell.
//
// Arguments, as the provisioner passes them to setupCommand and teardownCommand:
//
//	-p PATH    folder of the volume; its parent is mounted at the same path
//	-s BYTES   requested size (not enforced: a plain folder has no quota)
//	-m MODE    Filesystem; Block is refused
//	-a ACTION  create or delete
//
// VOL_DIR holds PATH once more. PATH must be a direct child of the mounted parent, and
// neither create nor delete follows a symbolic link in its place.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if err := run(os.Args[1:], os.Getenv("VOL_DIR")); err != nil {
		fmt.Fprintln(os.Stderr, "local-path-helper:", err)
		os.Exit(1)
	}
}

func run(args []string, volDir string) error {
	flags := flag.NewFlagSet("local-path-helper", flag.ContinueOnError)
	path := flags.String("p", volDir, "folder of the volume")
	flags.Int64("s", 0, "requested size in bytes")
	mode := flags.String("m", "Filesystem", "volume mode")
	action := flags.String("a", "", "create or delete")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if *mode != "Filesystem" {
		return fmt.Errorf("volume mode %q: only Filesystem volumes can be made of a folder", *mode)
	}
	if volDir != "" && *path != volDir {
		return fmt.Errorf("-p %q differs from VOL_DIR %q", *path, volDir)
	}
	parent, name, err := split(*path)
	if err != nil {
		return err
	}
	// os.Root keeps both actions inside the parent, whatever symbolic links lie there.
	root, err := os.OpenRoot(parent)
	if err != nil {
		return fmt.Errorf("open the volumes' folder: %w", err)
	}
	defer root.Close()
	switch *action {
	case "create":
		return create(root, name)
	case "delete":
		if err := root.RemoveAll(name); err != nil {
			return fmt.Errorf("delete volume %s: %w", *path, err)
		}
		return nil
	default:
		return fmt.Errorf("action %q: want create or delete", *action)
	}
}

// split takes path apart into the mounted parent and the volume's own name. The path has
// to be clean already: "a/../b" is refused instead of being understood.
func split(path string) (parent, name string, err error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return "", "", fmt.Errorf("path %q: want a clean absolute path", path)
	}
	parent, name = filepath.Dir(path), filepath.Base(path)
	if parent == "/" {
		return "", "", fmt.Errorf("path %q: a volume cannot lie directly below /", path)
	}
	return parent, name, nil
}

func create(root *os.Root, name string) error {
	if err := root.Mkdir(name, 0o777); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("create volume: %w", err)
	}
	info, err := root.Lstat(name)
	if err != nil {
		return fmt.Errorf("create volume: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("create volume: %s exists and is not a folder", filepath.Join(root.Name(), name))
	}
	// Every user of a pod may write, as with an emptyDir; Mkdir was subject to the umask.
	if err := root.Chmod(name, 0o777); err != nil {
		return fmt.Errorf("open volume to all users: %w", err)
	}
	return nil
}
