package fake

import (
	"bytes"
	"context"
	"io"
	"sync"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// blobs of a registry, which believes its disk as the mirror's does: what it has it does not take again.
type blobs struct {
	registry.BlobHandler

	mu      sync.Mutex
	damaged map[string]bool // digests
}

func newBlobs() *blobs {
	return &blobs{BlobHandler: registry.NewInMemoryBlobHandler(), damaged: map[string]bool{}}
}

// Damage has the registry serve other bytes in place of a blob's.
func (c *Cluster) Damage(digest string) {
	c.blobs.mu.Lock()
	defer c.blobs.mu.Unlock()
	c.blobs.damaged[digest] = true
}

func (b *blobs) mend(digests []string) (removed []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range digests {
		if hash, err := v1.NewHash(d); err == nil && b.damaged[d] {
			_ = b.BlobHandler.(registry.BlobDeleteHandler).Delete(context.Background(), "", hash)
			delete(b.damaged, d)
			removed = append(removed, d)
		}
	}
	return removed
}

// Get implements [registry.BlobHandler].
func (b *blobs) Get(ctx context.Context, repo string, h v1.Hash) (io.ReadCloser, error) {
	r, err := b.BlobHandler.Get(ctx, repo, h)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil || !b.damaged[h.String()] {
		return r, err
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	return io.NopCloser(bytes.NewReader(append(text[:len(text)/2:len(text)/2], make([]byte, len(text)-len(text)/2)...))), err
}

// Stat implements [registry.BlobStatHandler].
func (b *blobs) Stat(ctx context.Context, repo string, h v1.Hash) (int64, error) {
	return b.BlobHandler.(registry.BlobStatHandler).Stat(ctx, repo, h)
}

// Put implements [registry.BlobPutHandler].
func (b *blobs) Put(ctx context.Context, repo string, h v1.Hash, r io.ReadCloser) error {
	return b.BlobHandler.(registry.BlobPutHandler).Put(ctx, repo, h, r)
}
