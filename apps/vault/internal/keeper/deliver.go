package keeper

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/hashicorp/vault/api"
)

// deliverSecret is what component external-secrets has an ExternalSecret of.
const deliverSecret = "kv/data/k8s/platform/check"

// Deliver changes a secret in Vault and waits until it is in a file of this pod, which whoever
// keeps the cluster's Secrets has to bring there. It prints a line for verify.
func (k *Keeper) Deliver(ctx context.Context, out io.Writer) error {
	return report(out, []check{{"external-secrets", k.deliver}}, func(run checkFunc) (string, error) { return k.attempt(ctx, run) })
}

func (k *Keeper) deliver(ctx context.Context, c *api.Client) (string, error) {
	value := rand.Text()
	if _, err := c.Logical().WriteWithContext(ctx, deliverSecret, map[string]any{"data": map[string]any{"value": value}}); err != nil {
		return "", fmt.Errorf("change a secret in Vault: %w", err)
	}
	start := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		text, err := os.ReadFile(k.o.File)
		switch {
		case err == nil && string(text) == value:
			return fmt.Sprintf("a secret that was changed in Vault was in a pod's file %.0f s later", time.Since(start).Seconds()), nil
		case err == nil:
			err = errors.New("it has another value")
		case !errors.Is(err, fs.ErrNotExist):
			return "", wrong("read %s: %v", k.o.File, err)
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%s after the change in Vault, %s: %w; see `kubectl -n platform describe externalsecret external-secrets-check`",
				time.Since(start).Round(time.Second), k.o.File, err)
		case <-tick.C:
		}
	}
}
