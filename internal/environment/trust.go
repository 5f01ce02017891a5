package environment

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/proc"
)

// trustEffect is the journal's kind for an authority that the host was told to trust; the ID is
// the file that says so.
const trustEffect = "trust"

// The host's store, and who makes it of single files. Variables for tests.
var (
	trustFolder  = "/usr/local/share/ca-certificates"
	trustProgram = "update-ca-certificates"
)

// Authority is the certificate of the environment's authority, PEM. The cluster has to answer.
func (e *Environment) Authority(ctx context.Context) ([]byte, error) {
	client, err := e.Kube(ctx)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	certificate, _, err := client.Authority(ctx)
	return certificate, err
}

// Trust has this host trust the environment's authority, until [Environment.Distrust] or Remove.
func (e *Environment) Trust(ctx context.Context) (file string, err error) {
	certificate, err := e.Authority(ctx)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(trustFolder); err != nil {
		return "", failure.Usagef("this host has no folder %s, as Debian's have: print the authority with"+
			" `orrery trust --print` and add it the way this host has", trustFolder)
	}
	file = filepath.Join(trustFolder, "orrery-"+e.Spec.Name+".crt")
	if err := e.journal.Begin(driver.Effect{Kind: trustEffect, ID: file}); err != nil {
		return "", err
	}
	if err := atomicfile.Write(file, certificate, 0o644); err != nil {
		return "", fmt.Errorf("add the authority to the host's: %w", err)
	}
	if err := proc.Run(ctx, &proc.Cmd{Path: trustProgram}); err != nil {
		return "", fmt.Errorf("have the host read its authorities: %w; `orrery trust --remove` takes the file away", err)
	}
	return file, nil
}

// Distrust takes the authority away from the host again; there may be none. The cluster need not
// answer.
func (e *Environment) Distrust(ctx context.Context) (removed bool, err error) {
	var errs []error
	for _, f := range e.journal.Live() {
		if f.Kind != trustEffect {
			continue
		}
		if err := os.Remove(f.ID); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("take the authority away from the host's: %w; remove %s yourself and run %s", err, f.ID, trustProgram))
			continue
		}
		// Also when the file is gone already: the store may have been made before it was.
		if err := proc.Run(ctx, &proc.Cmd{Path: trustProgram}); err != nil {
			errs = append(errs, fmt.Errorf("have the host read its authorities: %w; run %s yourself", err, trustProgram))
			continue
		}
		removed = true
		errs = append(errs, e.journal.Undone(driver.Effect{Kind: f.Kind, ID: f.ID}))
	}
	return removed, errors.Join(errs...)
}

func (e *Environment) distrusted(ctx context.Context) error {
	_, err := e.Distrust(ctx)
	return err
}
