package nats

import (
	"context"
	"errors"
	"sync"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// backend is one mount of the engine.
type backend struct {
	*framework.Backend

	changing sync.Mutex // of config
	pushes   pushes
}

// Factory makes the engine; Vault calls it for each mount.
func Factory(ctx context.Context, config *logical.BackendConfig) (logical.Backend, error) {
	b := &backend{}
	b.Backend = &framework.Backend{
		BackendType:  logical.TypeLogical,
		Help:         "Signs NATS user credentials that end with their lease.",
		PathsSpecial: &logical.Paths{SealWrapStorage: []string{configKey}},
		Paths:        []*framework.Path{b.configPath(), b.rotatePath(), b.rolePath(), b.rolesPath(), b.credsPath()},
		Secrets:      []*framework.Secret{b.credential()},
		PeriodicFunc: b.tick,
	}
	if err := b.Setup(ctx, config); err != nil {
		return nil, err
	}
	return b, nil
}

// tick sees to it, every minute, that the servers know what is revoked: they may have lost their
// volumes, or have been given an account that was signed elsewhere.
func (b *backend) tick(ctx context.Context, req *logical.Request) error {
	err := b.push(ctx, req.Storage, false)
	if errors.Is(err, errNotConfigured) {
		return nil
	}
	return err
}
