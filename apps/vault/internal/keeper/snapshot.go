package keeper

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
)

// gzipped is what every snapshot begins with.
var gzipped = []byte{0x1f, 0x8b}

// Snapshot writes all of Vault's data, encrypted as it is in its storage.
func (k *Keeper) Snapshot(ctx context.Context, w io.Writer) error {
	c, err := k.login(ctx)
	if err != nil {
		return err
	}
	defer revoke(ctx, c)
	c.SetClientTimeout(0)
	if err := c.Sys().RaftSnapshotWithContext(ctx, w); err != nil {
		return fmt.Errorf("take a snapshot: %w", err)
	}
	return nil
}

// Restore replaces all of Vault's data by a snapshot that was made with the same Secret vault-seal.
// A Vault that has no data is initialised for it first; the key that comes of that is overwritten
// with all the rest, so the recovery key is the snapshot's.
func (k *Keeper) Restore(ctx context.Context, r io.Reader) error {
	in := bufio.NewReader(r)
	if head, err := in.Peek(len(gzipped)); err != nil || string(head) != string(gzipped) {
		return errors.New("what came on standard input is no snapshot: give it a file that 'keeper snapshot' wrote")
	}
	initialised, err := k.initialised(ctx)
	if err != nil {
		return err
	}
	c := k.vault
	if initialised {
		if c, err = k.login(ctx); err != nil {
			return err
		}
	} else {
		made, err := k.init(ctx)
		if err != nil {
			return err
		}
		if err := k.unsealed(ctx); err != nil {
			return err
		}
		if c, err = k.vault.Clone(); err != nil {
			return err
		}
		c.SetToken(made.RootToken)
	}
	c.SetClientTimeout(0)
	if err := c.Sys().RaftSnapshotRestoreWithContext(ctx, in, true); err != nil {
		return fmt.Errorf("restore the snapshot: %w", err)
	}
	// The role is the snapshot's, and its keys may be of another cluster's service accounts.
	if err := k.unsealed(ctx); err != nil {
		return fmt.Errorf("after the snapshot was restored: %w", err)
	}
	k.log.Info("the snapshot is restored")
	return nil
}
