package scylla

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// backend is one mount of the engine.
type backend struct {
	*framework.Backend
	open func(c *config) (session, error)
}

// Factory makes the engine; Vault calls it for each mount.
func Factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	b := &backend{open: open}
	b.Backend = &framework.Backend{
		BackendType:       logical.TypeLogical,
		Help:              "Makes CQL roles that end with their lease.",
		PathsSpecial:      &logical.Paths{SealWrapStorage: []string{configKey}},
		Paths:             []*framework.Path{b.configPath(), b.rotatePath(), b.rolePath(), b.rolesPath(), b.credsPath()},
		Secrets:           []*framework.Secret{b.credential()},
		WALRollback:       b.rollback,
		WALRollbackMinAge: 5 * time.Minute,
	}
	if err := b.Setup(ctx, conf); err != nil {
		return nil, err
	}
	return b, nil
}
