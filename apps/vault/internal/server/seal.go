package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/hashicorp/go-hclog"
	wrapping "github.com/hashicorp/go-kms-wrapping/v2"
	"github.com/hashicorp/go-kms-wrapping/v2/aead"
	"github.com/hashicorp/vault/vault"
	"github.com/hashicorp/vault/vault/seal"
)

// minSealKey is as many characters as a generated key has at least: 40 of 62 are 238 bits.
const minSealKey = 40

// fileWrapper unseals with a key in a file. Storage says which key it was, so that another one is
// told apart from damaged data.
type fileWrapper struct {
	*aead.Wrapper
	id string
}

func newFileWrapper(file string) (*fileWrapper, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the key that unseals Vault: %w", err)
	}
	key := strings.TrimSpace(string(text))
	if len(key) < minSealKey {
		return nil, fmt.Errorf("the key that unseals Vault in %s has %d characters, and has to have %d: "+
			"restore the Secret that it is mounted from", file, len(key), minSealKey)
	}
	sum := sha256.Sum256([]byte(key))
	w := aead.NewWrapper()
	if err := w.SetAesGcmKeyBytes(sum[:]); err != nil {
		return nil, fmt.Errorf("the key that unseals Vault: %w", err)
	}
	name := sha256.Sum256(append([]byte("name of the key "), sum[:]...))
	return &fileWrapper{w, hex.EncodeToString(name[:8])}, nil
}

// KeyId returns a name of the key that says nothing about it.
func (w *fileWrapper) KeyId(context.Context) (string, error) { return w.id, nil }

// Encrypt seals plaintext and notes the key's name.
func (w *fileWrapper) Encrypt(ctx context.Context, plaintext []byte, o ...wrapping.Option) (*wrapping.BlobInfo, error) {
	b, err := w.Wrapper.Encrypt(ctx, plaintext, o...)
	if err != nil {
		return nil, err
	}
	b.KeyInfo = &wrapping.KeyInfo{KeyId: w.id}
	return b, nil
}

// Decrypt unseals what Encrypt sealed with the same key.
func (w *fileWrapper) Decrypt(ctx context.Context, b *wrapping.BlobInfo, o ...wrapping.Option) ([]byte, error) {
	if k := b.GetKeyInfo().GetKeyId(); k != "" && k != w.id {
		return nil, fmt.Errorf("sealed with key %s, and the one at hand is %s: restore the Secret vault-seal that belongs to this data", k, w.id)
	}
	return w.Wrapper.Decrypt(ctx, b, o...)
}

func newSeal(log hclog.Logger, file string) (vault.Seal, error) {
	w, err := newFileWrapper(file)
	if err != nil {
		return nil, err
	}
	access, err := seal.NewAccessFromWrapper(log, w, wrapping.WrapperTypeAead.String())
	if err != nil {
		return nil, fmt.Errorf("make the seal: %w", err)
	}
	return vault.NewAutoSeal(access), nil
}
