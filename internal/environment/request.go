package environment

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/engine"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/profile"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/supply"
	"github.com/orrery-dev/orrery/internal/ui"
)

// Request is what a person asked for, before anything was looked at. It is a value: nothing
// that is done with one changes it.
type Request struct {
	// StateRoot has a folder for each environment; CacheDir is shared by all.
	StateRoot, CacheDir string
	// File is the environment file; "" looks for orrery.yaml here and beside the catalogue.
	File string
	// Name of the environment; "" is what the file says.
	Name string
	// Profile in place of what the file says; "" leaves it.
	Profile string
	// Registry in place of images.registry of the file; "" leaves it.
	Registry string
	// Catalog is a folder in or below the repository; "" is the working folder, or where the
	// environment was made from.
	Catalog string
	// Bundle that catalogue, lock, programs and images come from; nil when none was named.
	Bundle *supply.Location
	// Verb that changes the environment, which it then has for itself; "" only looks.
	Verb string
	// Timeout and Grace are those of driver.Options; usually 0.
	Timeout, Grace time.Duration
	// Adopt takes over what others manage in a cluster that is not the environment's own.
	Adopt bool
	// DeleteData may lose data: that of components which leave, what a restore replaces, and claims of
	// volumes in a cluster that is not the environment's own.
	DeleteData bool
	Sink       ui.Sink
	Log        *slog.Logger
}

// Spec is what the environment file wants, or the default without one.
func (r Request) Spec() (spec.Environment, error) {
	e := spec.Default()
	if file := r.file(); file != "" {
		// Only a file that nobody asked for may be absent.
		_, err := os.Stat(file)
		if err != nil {
			return e, failure.Usage{Err: fmt.Errorf("read the environment file: %w", err)}
		}
		if e, err = spec.Load(file); err != nil {
			return e, failure.Usage{Err: err}
		}
	}
	if r.Name != "" {
		e.Rename(r.Name)
	}
	if r.Profile != "" {
		switch {
		case profile.Rank(r.Profile) < 0:
			return e, failure.Usagef("--profile %s: want one of %s",
				r.Profile, strings.Join(profile.All(), ", "))
		case len(e.Components) > 0:
			return e, failure.Usagef("--profile %s: %s lists components one by one;"+
				" take that list out, or leave --profile away", r.Profile, r.file())
		}
		e.Profile = r.Profile
	}
	if r.Registry != "" {
		e.Images.Registry = r.Registry
	}
	if err := e.Validate(); err != nil {
		return e, failure.Usage{Err: err}
	}
	return e, nil
}

// file is the file to read, "" when there is none and defaults apply.
func (r Request) file() string {
	if r.File != "" {
		return r.File
	}
	candidates := []string{"orrery.yaml"}
	if root, err := r.location("").Root(); err == nil {
		candidates = append(candidates, filepath.Join(root, "orrery.yaml"))
	}
	for _, c := range candidates {
		if _, err := os.Stat(c); err == nil {
			return c
		}
	}
	return ""
}

// name of the environment, valid.
func (r Request) name() (string, error) {
	if r.Name != "" {
		e := spec.Named(r.Name)
		if err := e.Validate(); err != nil {
			return "", failure.Usage{Err: err}
		}
		return r.Name, nil
	}
	want, err := r.Spec()
	return want.Name, err
}

// Absent reports whether nothing is kept of the environment, not even a folder.
func (r Request) Absent() (bool, error) {
	name, err := r.name()
	if err != nil {
		return false, err
	}
	_, err = os.Lstat(filepath.Join(r.StateRoot, name))
	return errors.Is(err, fs.ErrNotExist), nil
}

// location of the catalogue, for an environment that was made from a bundle, if it was: the
// bundle that was named, the folder that was named, what the environment was made from, else
// the repository around the working folder.
func (r Request) location(madeFrom string) *supply.Location {
	switch {
	case r.Bundle != nil:
		return r.Bundle
	case r.Catalog != "" || madeFrom == "":
		return supply.Folder(r.Catalog)
	}
	return supply.InBundle(r.CacheDir, madeFrom)
}

// Location of the catalogue for verbs that need no environment. Outside of a repository it is
// that of the environment, if it has one.
func (r Request) Location() *supply.Location {
	here := r.location("")
	if _, err := here.Root(); err != nil && r.Catalog == "" {
		if name, err := r.name(); err == nil {
			if kept, err := engine.LoadState(filepath.Join(r.StateRoot, name)); err == nil {
				return r.location(kept.Bundle)
			}
		}
	}
	return here
}

// Supply of the whole catalogue, for verbs that need no environment.
func (r Request) Supply() (*supply.Supply, error) {
	at := r.Location()
	locked, err := at.Lock()
	if err != nil {
		return nil, err
	}
	cat, err := at.Catalog()
	if err != nil {
		return nil, err
	}
	return supply.Open(supply.Options{Location: at, Catalog: cat, Lock: locked, CacheDir: r.CacheDir, Images: r.images(), Sink: r.Sink, Log: r.Log})
}

// Unlocked is the supply of the whole catalogue for those who write or judge the lock.
func (r Request) Unlocked() (*supply.Supply, error) {
	at := r.Location()
	cat, err := at.Catalog()
	if err != nil {
		return nil, err
	}
	var locked, _ = at.Lock()
	if at.Bundle() == "" {
		locked = nil // a bad one is written anew
	}
	return supply.Open(supply.Options{Location: at, Catalog: cat, Lock: locked, CacheDir: r.CacheDir, Images: r.images(), Sink: r.Sink, Log: r.Log})
}

// images is the policy of orrery.yaml; of one that cannot be read, the default.
func (r Request) images() spec.Images {
	e, err := r.Spec()
	if err != nil {
		e = spec.Default()
	}
	return e.Images
}

// Machine is what this machine itself signs and trusts.
func (r Request) Machine() supply.Machine { return supply.ThisMachine(r.StateRoot) }

// Names of the environments that have a folder, sorted.
func (r Request) Names() ([]string, error) {
	entries, err := os.ReadDir(r.StateRoot)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list environments: %w", err)
	}
	var names []string
	for _, e := range entries {
		// What is a link, or a mount, counts as what it leads to.
		info, err := os.Stat(filepath.Join(r.StateRoot, e.Name()))
		if err == nil && info.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// BundlesUsed are the bundles that environments were made from, by digest.
func (r Request) BundlesUsed() (map[string]bool, error) {
	names, err := r.Names()
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, name := range names {
		kept, err := engine.LoadState(filepath.Join(r.StateRoot, name))
		if err != nil && !errors.Is(err, engine.ErrNoState) {
			return nil, fmt.Errorf("bundles are kept, because it cannot be told which environment %s needs: %w", name, err)
		}
		used[kept.Bundle] = true
	}
	return used, nil
}
