package environment

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/check/smoke"
	"github.com/orrery-dev/orrery/internal/datastore"
	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/plan"
)

// DataStores are the names of those that can be backed up.
var DataStores = []string{datastore.NATS}

// KnownDataStore refuses what cannot be backed up, and says by what it could be.
func KnownDataStore(store string) error {
	switch store {
	case datastore.NATS:
		return nil
	case "scylladb":
		return failure.Usagef("orrery has no backup of ScyllaDB, which could not be run where it was written:" +
			" docs/reference/data.md says how to take one with nodetool")
	case "foundationdb":
		return failure.Usagef("orrery has no backup of FoundationDB, which could not be run where it was written:" +
			" docs/reference/data.md says how to take one with its operator")
	}
	return failure.Usagef("there is no data store %q: want %s", store, strings.Join(DataStores, ", "))
}

// DataBackup is what was taken, or given back.
type DataBackup struct {
	Store   string             `json:"store"`
	Version string             `json:"version"`
	File    string             `json:"file"` // absolute
	Bytes   int64              `json:"bytes"`
	Taken   time.Time          `json:"taken"`
	Streams []datastore.Stream `json:"streams"`
}

// newFile is the absolute path of a file that may be made, or replaced when that is wanted.
func newFile(file string, force bool) (string, error) {
	file, err := filepath.Abs(file)
	if err != nil {
		return "", err
	}
	st, err := os.Lstat(file)
	switch {
	case err == nil && !st.Mode().IsRegular():
		return "", failure.Usagef("%s is no file", file)
	case err == nil && !force:
		return "", failure.Usagef("%s is there already: take another name, or --force to replace it", file)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	return file, nil
}

// BackupData writes what a data store holds into file, for its owner only. A failure leaves what was there.
func (e *Environment) BackupData(ctx context.Context, store, file string, force bool) (b DataBackup, err error) {
	if err := KnownDataStore(store); err != nil {
		return b, err
	}
	if file, err = newFile(file, force); err != nil {
		return b, err
	}
	ctx, cancel := context.WithCancel(ctx) // what is connected ends with it
	defer cancel()
	client, err := e.Kube(ctx)
	if err != nil {
		return b, err
	}
	defer client.Close()
	nc, _, err := smoke.ConnectNATS(ctx, smoke.Env{Client: client, Spec: e.Spec}, "orrery data backup")
	if err != nil {
		return b, err
	}
	defer nc.Close()
	b = DataBackup{Store: store, Version: nc.ConnectedServerVersion(), File: file, Taken: time.Now().UTC().Truncate(time.Second)}
	err = atomicfile.Replace(file, func(tmp string) error {
		f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		header := datastore.Header{Store: store, Version: b.Version, Environment: e.Spec.Name, Taken: b.Taken}
		w, err := datastore.NewWriter(f, filepath.Dir(file), header)
		if err == nil {
			err = datastore.BackupJetStream(ctx, nc, w, func(s datastore.Stream) { b.Streams = append(b.Streams, s) })
		}
		if err == nil {
			err = w.Close()
		}
		if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
			return err
		}
		// As a restore will read it.
		a, err := datastore.Open(tmp, store)
		if err != nil {
			return fmt.Errorf("read what was written: %w", err)
		}
		st, err := os.Stat(tmp)
		if err == nil {
			b.Bytes = st.Size()
		}
		return errors.Join(err, a.Close())
	})
	if err != nil {
		return b, fmt.Errorf("back up %s: %w", store, err)
	}
	return b, disk.Sync(filepath.Dir(file))
}

// RestoreData gives a data store what a backup holds. What has the same names there is deleted when that is
// wanted, and refused otherwise. done is told of each stream.
func (e *Environment) RestoreData(ctx context.Context, store, file string, done func(datastore.Stream)) (b DataBackup, err error) {
	if err := KnownDataStore(store); err != nil {
		return b, err
	}
	if file, err = filepath.Abs(file); err != nil {
		return b, err
	}
	a, err := datastore.Open(file, store)
	if err != nil {
		return b, failure.Usage{Err: err}
	}
	defer a.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client, err := e.Kube(ctx)
	if err != nil {
		return b, err
	}
	defer client.Close()
	nc, servers, err := smoke.ConnectNATS(ctx, smoke.Env{Client: client, Spec: e.Spec}, "orrery data restore")
	if err != nil {
		return b, err
	}
	defer nc.Close()
	b = DataBackup{Store: store, Version: a.Header.Version, File: file, Taken: a.Header.Taken}
	err = datastore.RestoreJetStream(ctx, nc, a, servers, e.request.DeleteData, func(s datastore.Stream) {
		b.Streams = append(b.Streams, s)
		done(s)
	})
	if err != nil {
		return b, fmt.Errorf("restore %s: %w", store, err)
	}
	return b, nil
}

// refuseLoss is the error when a plan removes a component that holds data, and nobody said that it may be lost.
func (p *Platform) refuseLoss(pl plan.Plan) error {
	if p.request.DeleteData {
		return nil
	}
	var lost []string
	for _, s := range pl.Steps {
		if c := p.Catalog.Components[s.Subject]; s.Kind == plan.KindRemove && !s.Done && c.Holds != "" {
			lost = append(lost, fmt.Sprintf("component %s, and with it %s", c.Name, c.Holds))
		}
	}
	if len(lost) == 0 {
		return nil
	}
	return failure.Usagef("nothing was done: what is wanted leaves out %s. "+
		"'orrery data backup%s' keeps what can be kept; --delete-data goes on and loses it",
		strings.Join(lost, "; "), p.Flag())
}
