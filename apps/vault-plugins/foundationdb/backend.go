package foundationdb

import (
	"context"
	"sync"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// backend is one mount of the engine.
type backend struct {
	*framework.Backend
	changing sync.Mutex // of the authority
}

// Factory makes the engine; Vault calls it for each mount.
func Factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	b := &backend{}
	b.Backend = &framework.Backend{
		BackendType:  logical.TypeLogical,
		Help:         "Issues client certificates for FoundationDB that end with their lease.",
		PathsSpecial: &logical.Paths{SealWrapStorage: []string{configKey}},
		Paths:        []*framework.Path{b.configPath(), b.rotatePath(), b.rolePath(), b.rolesPath(), b.credsPath()},
		Secrets:      []*framework.Secret{certificate()},
	}
	if err := b.Setup(ctx, conf); err != nil {
		return nil, err
	}
	return b, nil
}
