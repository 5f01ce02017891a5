package keeper

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/api"
)

// Options say where everything is; see the flags of the command.
type Options struct {
	Address   string
	Nodes     []string
	CAFile    string
	TokenFile string
	Role      string
	Config    string
	Secret    string
	Listen    string
	// NATS is where a leased user of NATS is tried; empty: it is not.
	NATS string
	// File is where a secret of Vault's is delivered to.
	File string
}

const (
	// authPath is where service accounts log in.
	authPath = "kubernetes"
	// again is how often a pass is made that has nothing to do; retry is how soon after a failure.
	again = 30 * time.Second
	retry = time.Second

	recoveryKey = "recovery-key"
	rootToken   = "root-token"
)

// ErrLost is returned when Vault has no data although there was some.
var ErrLost = errors.New("Vault has no data, and had some before: restore a snapshot with 'keeper restore', " +
	"or delete the Secret of its recovery key to begin with an empty one")

// Keeper looks after one Vault.
type Keeper struct {
	o     Options
	log   *slog.Logger
	vault *api.Client
}

// New makes a keeper. It asks nobody anything yet.
func New(log *slog.Logger, o Options) (*Keeper, error) {
	c, err := newClient(o, o.Address)
	if err != nil {
		return nil, err
	}
	return &Keeper{o: o, log: log, vault: c}, nil
}

func newClient(o Options, address string) (*api.Client, error) {
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, config.Error
	}
	config.Address, config.Timeout, config.MaxRetries = address, 20*time.Second, 0
	if o.CAFile != "" {
		if err := config.ConfigureTLS(&api.TLSConfig{CACert: o.CAFile}); err != nil {
			return nil, fmt.Errorf("trust the authority in %s: %w", o.CAFile, err)
		}
	}
	c, err := api.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("a client for %s: %w", address, err)
	}
	// Whatever the environment says.
	c.ClearToken()
	return c, nil
}

// login logs in as the service account whose token is mounted, and returns a client that is.
func (k *Keeper) login(ctx context.Context) (*api.Client, error) {
	token, err := os.ReadFile(k.o.TokenFile)
	if err != nil {
		return nil, fmt.Errorf("the service account's token for Vault: %w", err)
	}
	c, err := k.vault.Clone()
	if err != nil {
		return nil, err
	}
	s, err := c.Logical().WriteWithContext(ctx, "auth/"+authPath+"/login", map[string]any{
		"role": k.o.Role, "jwt": strings.TrimSpace(string(token)),
	})
	if err != nil {
		return nil, fmt.Errorf("log in to Vault as role %s: %w", k.o.Role, err)
	}
	c.SetToken(s.Auth.ClientToken)
	return c, nil
}

// Run keeps Vault as it should be until ctx ends. /readyz says whether the last pass succeeded.
func (k *Keeper) Run(ctx context.Context) error {
	cl, err := newCluster()
	if err != nil {
		return err
	}
	var ready atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !ready.Load() {
			http.Error(w, "Vault is not as it should be; the log says why", http.StatusServiceUnavailable)
		}
	})
	srv := &http.Server{Addr: k.o.Listen, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.ListenAndServe() }()
	defer srv.Close()

	p := &pass{Keeper: k, cluster: cl}
	said := ""
	for {
		bounded, cancel := context.WithTimeout(ctx, time.Minute)
		changed, err := p.once(bounded)
		cancel()
		wait := again
		if err != nil {
			wait = retry
			if err.Error() != said {
				k.log.Warn("Vault is not as it should be yet", "error", err)
				said = err.Error()
			}
		} else if said = ""; changed {
			k.log.Info("Vault is as the files say")
		}
		ready.Store(err == nil)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case err := <-failed:
			timer.Stop()
			return fmt.Errorf("serve /readyz: %w", err)
		case <-timer.C:
		}
	}
}

// pass is what is remembered from one pass to the next.
type pass struct {
	*Keeper
	cluster *cluster
	applied [sha256.Size]byte
}

// once brings Vault to what it should be. Nothing of it depends on what an earlier pass did.
func (p *pass) once(ctx context.Context) (changed bool, err error) {
	d, read, err := load(p.o.Config)
	if err != nil {
		return false, err
	}
	issuer, pems, err := p.cluster.keys(ctx)
	if err != nil {
		return false, err
	}
	kept, err := p.cluster.readSecret(ctx, p.o.Secret)
	if err != nil {
		return false, fmt.Errorf("read Secret %s: %w", p.o.Secret, err)
	}
	initialised, err := p.initialised(ctx)
	if err != nil {
		return false, err
	}
	if !initialised {
		p.applied = [sha256.Size]byte{}
		if kept != nil {
			return false, ErrLost
		}
		if kept, err = p.initialise(ctx); err != nil {
			return false, err
		}
	}
	if err := p.unsealed(ctx); err != nil {
		return false, err
	}
	auth := authWrites(issuer, pems)
	if kept != nil && len(kept.Data[rootToken]) > 0 {
		if err := p.bootstrap(ctx, d, auth, kept); err != nil {
			return false, err
		}
	}
	c, err := p.login(ctx)
	if err != nil {
		return false, err
	}
	defer revoke(ctx, c)
	sum := sha256.Sum256(bytes.Join([][]byte{read, []byte(strings.Join(pems, "\n")), []byte(issuer)}, []byte{0}))
	if sum == p.applied {
		return false, nil
	}
	d.Write = append(auth, d.Write...)
	if err := apply(ctx, c, d); err != nil {
		return false, err
	}
	p.applied = sum
	return true, nil
}

// authWrites says whose tokens are believed. Keys are given, not a URL: the API server tells them to
// those who log in only, which Vault does not.
func authWrites(issuer string, pems []string) []Write {
	return []Write{{Path: "auth/" + authPath + "/config", Data: map[string]any{
		"jwt_validation_pubkeys": pems, "bound_issuer": issuer,
	}}}
}

// initialised asks all nodes. That one answers no is not enough: it may be a new one that is about
// to join the others.
func (k *Keeper) initialised(ctx context.Context) (bool, error) {
	for _, node := range k.o.Nodes {
		c, err := newClient(k.o, node)
		if err != nil {
			return false, err
		}
		yes, err := c.Sys().InitStatusWithContext(ctx)
		if err != nil {
			return false, fmt.Errorf("ask %s whether it is initialised: %w", node, err)
		}
		if yes {
			return true, nil
		}
	}
	return false, nil
}

func (k *Keeper) init(ctx context.Context) (*api.InitResponse, error) {
	c, err := newClient(k.o, k.o.Nodes[0])
	if err != nil {
		return nil, err
	}
	c.SetClientTimeout(time.Minute)
	r, err := c.Sys().InitWithContext(ctx, &api.InitRequest{RecoveryShares: 1, RecoveryThreshold: 1})
	if err != nil {
		return nil, fmt.Errorf("initialise %s: %w", k.o.Nodes[0], err)
	}
	return r, nil
}

func (p *pass) initialise(ctx context.Context) (*secret, error) {
	r, err := p.init(ctx)
	if err != nil {
		return nil, err
	}
	// Whatever happens to ctx now: nobody else has them.
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	data := map[string][]byte{recoveryKey: []byte(r.RecoveryKeysB64[0]), rootToken: []byte(r.RootToken)}
	for {
		s, err := p.cluster.writeSecret(bounded, p.o.Secret, nil, data)
		if err == nil {
			p.log.Info("Vault is initialised", "recovery key in Secret", p.o.Secret)
			return s, nil
		}
		if bounded.Err() != nil {
			return nil, fmt.Errorf("keep the recovery key of a new Vault in Secret %s: %w; it is lost: delete Vault's claims and begin again",
				p.o.Secret, err)
		}
		p.log.Warn("the recovery key is not kept yet", "error", err)
		select {
		case <-bounded.Done():
		case <-time.After(retry):
		}
	}
}

// unsealed waits until the node that answers can be asked something.
func (k *Keeper) unsealed(ctx context.Context) error {
	for {
		h, err := k.vault.Sys().HealthWithContext(ctx)
		if err == nil && !h.Sealed {
			var l *api.LeaderResponse
			if l, err = k.vault.Sys().LeaderWithContext(ctx); err == nil && l.LeaderAddress != "" {
				return nil
			}
			err = errors.Join(err, errors.New("none of its nodes leads yet"))
		} else if err == nil {
			err = errors.New("it is sealed: its log says why")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for Vault: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// bootstrap gives the keeper's own role what it needs and ends the root token.
func (p *pass) bootstrap(ctx context.Context, d Desired, auth []Write, kept *secret) error {
	c, err := p.vault.Clone()
	if err != nil {
		return err
	}
	c.SetToken(string(kept.Data[rootToken]))
	first := d
	first.Mounts = nil
	first.Write = auth
	role := "auth/" + authPath + "/role/" + p.o.Role
	for _, w := range d.Write {
		if w.Path == role {
			first.Write = append(first.Write, w)
		}
	}
	// A token that is revoked already and could not be forgotten is denied.
	if err := apply(ctx, c, first); err != nil && !denied(err) {
		return fmt.Errorf("set up with the root token: %w", err)
	}
	own, err := p.login(ctx)
	if err != nil {
		return fmt.Errorf("the root token is kept until this works: %w", err)
	}
	revoke(ctx, own)
	if err := c.Auth().Token().RevokeSelfWithContext(ctx, ""); err != nil && !denied(err) {
		return fmt.Errorf("revoke the root token: %w", err)
	}
	delete(kept.Data, rootToken)
	if _, err := p.cluster.writeSecret(ctx, p.o.Secret, kept, kept.Data); err != nil {
		return fmt.Errorf("forget the root token: %w", err)
	}
	p.log.Info("the root token is revoked")
	return nil
}

// revoke ends a token of ours. It ends by itself soon: nothing depends on it.
func revoke(ctx context.Context, c *api.Client) { _ = c.Auth().Token().RevokeSelfWithContext(ctx, "") }
