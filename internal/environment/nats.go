package environment

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/filelock"
	"github.com/orrery-dev/orrery/internal/kube"
)

// natsLife bounds a credential that was offered: a day of work, and what was forgotten ends by itself.
const natsLife = 24 * time.Hour

// NATSAccess is how a program on this host reaches NATS: an address and paths, no values.
type NATSAccess struct {
	URL string
	// Credentials is a file for NATS' clients, Authority what the servers' certificates end at.
	Credentials, Authority string
}

func (e *Environment) natsAccess() (a NATSAccess, url, lock string) {
	dir := filepath.Join(e.StateDir, "nats")
	a = NATSAccess{Credentials: filepath.Join(dir, "app.creds"), Authority: filepath.Join(dir, "ca.crt")}
	return a, filepath.Join(dir, "url"), filepath.Join(dir, "lock")
}

// OfferNATS writes down how programs reach NATS at an address that this process listens on, with a
// credential of their own, until end is called or the process is no more. Another process that
// offers it already is left alone: the error is [filelock.ErrLocked] then.
func (e *Environment) OfferNATS(ctx context.Context, client *kube.Client, url string) (a NATSAccess, end func() error, err error) {
	a, urlFile, lockFile := e.natsAccess()
	certificate, _, err := client.Authority(ctx)
	if err != nil {
		return a, nil, err
	}
	creds, err := client.NATSUser(ctx, time.Now().Add(natsLife))
	if err != nil {
		return a, nil, err
	}
	defer clear(creds)
	if err := os.MkdirAll(filepath.Dir(lockFile), 0o700); err != nil {
		return a, nil, fmt.Errorf("offer NATS to programs: %w", err)
	}
	// Who reads holds it for a moment as well.
	waited, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	lock, err := filelock.Wait(waited, lockFile, filelock.Exclusive, nil)
	switch {
	case err != nil && ctx.Err() == nil && waited.Err() != nil:
		return a, nil, fmt.Errorf("another `orrery open nats` runs: %w", filelock.ErrLocked)
	case err != nil:
		return a, nil, fmt.Errorf("offer NATS to programs: %w", err)
	}
	end = func() error {
		return errors.Join(os.RemoveAll(filepath.Dir(lockFile)), lock.Close())
	}
	a.URL = url
	for file, content := range map[string][]byte{a.Credentials: creds, a.Authority: certificate, urlFile: []byte(url)} {
		if err := atomicfile.Write(file, content, 0o600); err != nil {
			return a, nil, errors.Join(fmt.Errorf("offer NATS to programs: %w", err), end())
		}
	}
	return a, end, nil
}

// NATSAccess is what a process that runs offers; ok is false when there is none.
func (e *Environment) NATSAccess() (a NATSAccess, ok bool) {
	a, urlFile, lockFile := e.natsAccess()
	if _, err := os.Stat(lockFile); err != nil {
		return NATSAccess{}, false
	}
	if lock, err := filelock.Try(lockFile, filelock.Shared); !errors.Is(err, filelock.ErrLocked) {
		if err == nil {
			lock.Close()
		}
		return NATSAccess{}, false
	}
	url, err := os.ReadFile(urlFile)
	if err != nil {
		return NATSAccess{}, false
	}
	a.URL = string(url)
	return a, true
}
