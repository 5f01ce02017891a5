// Package nats is a secrets engine of Vault that signs NATS user credentials that end with their lease.
package nats

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// Factory makes the engine; Vault calls it for each mount.
func Factory(ctx context.Context, config *logical.BackendConfig) (logical.Backend, error) {
	b := &framework.Backend{BackendType: logical.TypeLogical}
	if err := b.Setup(ctx, config); err != nil {
		return nil, err
	}
	return b, nil
}
