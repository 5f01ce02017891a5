package credential

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// pair is a user's JWT and the seed of its key.
type pair struct {
	jwt  string
	seed []byte
}

// Keeper has a credential at hand for every sign-in, and changes it in time.
type Keeper struct {
	vault Vault
	file  string
	log   *slog.Logger
	nudge chan struct{}

	mu      sync.Mutex
	lease   *lease
	failing bool // Vault did not answer the last time
	changed func()
}

// Options of a Keeper.
type Options struct {
	Vault Vault
	// File holds the credentials (.creds) that are used without one of Vault's; empty: there are none.
	File string
	Log  *slog.Logger
}

// New makes a Keeper. With neither a Vault nor a file there is no credential, and it is nil.
func New(o Options) (*Keeper, error) {
	if o.Vault.Address == "" && o.File == "" {
		return nil, nil
	}
	k := &Keeper{vault: o.Vault, file: o.File, log: o.Log, nudge: make(chan struct{}, 1), changed: func() {}}
	if o.Vault.Address == "" {
		if _, err := k.load(); err != nil {
			return nil, err
		}
	}
	return k, k.observe()
}

// Changed has f called when the next sign-in is to be another's.
func (k *Keeper) Changed(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changed = f
}

// Refused tells the Keeper that NATS did not take the credential.
func (k *Keeper) Refused() {
	select {
	case k.nudge <- struct{}{}:
	default:
	}
}

// current is what to sign in with now.
func (k *Keeper) current() (pair, error) {
	l := k.had()
	if l != nil && time.Now().Before(l.expires) {
		return l.pair, nil
	}
	if k.file == "" {
		return pair{}, errors.New("Vault has given no credential for NATS that is still good")
	}
	return k.load()
}

// load reads the file, which may have changed.
func (k *Keeper) load() (pair, error) {
	text, err := os.ReadFile(k.file)
	if err != nil {
		return pair{}, fmt.Errorf("credentials of the NATS user: %w", err)
	}
	defer clear(text)
	token, err := nkeys.ParseDecoratedJWT(text)
	if err != nil {
		return pair{}, fmt.Errorf("credentials of the NATS user in %s: %w", k.file, err)
	}
	keys, err := nkeys.ParseDecoratedNKey(text)
	if err != nil {
		return pair{}, fmt.Errorf("credentials of the NATS user in %s: %w", k.file, err)
	}
	seed, err := keys.Seed()
	return pair{token, seed}, err
}

// Option signs in with what is current then.
func (k *Keeper) Option() nats.Option {
	var shown pair // NATS asks for the signature right after the JWT, on the same connection
	return nats.UserJWT(
		func() (string, error) {
			p, err := k.current()
			shown = p
			return p.jwt, err
		},
		func(nonce []byte) ([]byte, error) {
			keys, err := nkeys.FromSeed(append([]byte(nil), shown.seed...))
			if err != nil {
				return nil, fmt.Errorf("seed of the NATS user: %w", err)
			}
			defer keys.Wipe()
			return keys.Sign(nonce)
		},
	)
}

const (
	// patience is for a Vault that may be there, before the first sign-in.
	patience = 3 * time.Second
	// soon and seldom are the least and the longest time between attempts that fail.
	soon, seldom = time.Second, 30 * time.Second
	// young credentials that are refused are not replaced at once: the next one may be too.
	young = 5 * time.Second
)

// Begin asks Vault before the first sign-in, and does not wait for one that is not there.
func (k *Keeper) Begin(ctx context.Context) {
	if k.vault.Address == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := k.step(ctx); err != nil && k.file != "" {
		k.log.Info("no credential from Vault: the one of the file is used", "error", err)
	}
}

// Run keeps the credential until ctx ends, and gives it back then.
func (k *Keeper) Run(ctx context.Context) {
	if k.vault.Address == "" {
		return
	}
	failures := 0
	timer := time.NewTimer(k.pause(failures))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-k.nudge:
			k.mu.Lock()
			old := k.lease != nil && time.Since(k.lease.from) > young && time.Now().Before(k.lease.expires)
			if old {
				k.lease.until = time.Now() // it is not believed: the next one
			}
			k.mu.Unlock()
			if !old {
				continue
			}
		}
		if err := k.step(ctx); err != nil && ctx.Err() == nil {
			failures++
			if level := slog.LevelWarn; failures == 1 {
				if k.had() == nil && k.file != "" {
					level = slog.LevelInfo // there may be no Vault here
				}
				k.log.Log(ctx, level, "Vault gives no NATS credential, and is asked again", "error", err)
			}
			k.count(ctx)
		} else {
			failures = 0
		}
		timer.Reset(k.pause(failures))
	}
}

// Close gives back what Vault gave. The connection to NATS has to be closed before.
func (k *Keeper) Close(ctx context.Context) {
	k.mu.Lock()
	l := k.lease
	k.lease = nil
	k.mu.Unlock()
	if l != nil {
		k.vault.give(ctx, l.token)
	}
}

func (k *Keeper) had() *lease {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.lease
}

// pause until the next step: half of what is left, or a little longer after every failure.
func (k *Keeper) pause(failures int) time.Duration {
	if failures > 0 {
		return min(soon<<min(failures-1, 10), seldom)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.lease == nil {
		return soon
	}
	return max(time.Until(k.lease.until)/2, 100*time.Millisecond)
}

// step renews the lease, or takes another where that cannot last.
func (k *Keeper) step(ctx context.Context) (err error) {
	defer func() {
		k.mu.Lock()
		k.failing = err != nil
		k.mu.Unlock()
	}()
	l := k.had()
	if l != nil && time.Now().Before(l.until) && time.Until(l.expires) > l.expires.Sub(l.from)/3 {
		next := *l
		err := k.vault.renew(ctx, &next)
		if err == nil && time.Until(next.until) > next.first/2 {
			k.mu.Lock()
			k.lease = &next
			k.mu.Unlock()
			return nil
		}
		if err != nil && !errors.Is(err, errRefused) {
			return err
		}
	}
	next, err := k.vault.take(ctx)
	if err != nil {
		return err
	}
	k.mu.Lock()
	before, changed := k.lease, k.changed
	k.lease = next
	k.mu.Unlock()
	k.log.Info("a NATS credential from Vault", "expires", next.expires)
	changed()
	if before != nil {
		// Not before the next one is in use: NATS closes the connection of one that is revoked.
		k.vault.give(context.WithoutCancel(ctx), before.token)
	}
	return nil
}
