package sign

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// maxKeyFile is far beyond what a key needs, in bytes.
const maxKeyFile = 64 << 10

// PublicKey verifies. The zero value verifies nothing.
type PublicKey struct {
	key *ecdsa.PublicKey
	der []byte
}

// LoadPublicKey reads a PEM file as `cosign generate-key-pair` writes it: an ECDSA key on
// the curve P-256.
func LoadPublicKey(file string) (PublicKey, error) {
	data, err := readKeyFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return PublicKey{}, fmt.Errorf("public key %s: %w: %w", file, ErrKeyMissing, err)
	}
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key %s: %w", file, err)
	}
	k, err := ParsePublicKey(data)
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key %s: %w", file, err)
	}
	return k, nil
}

func readKeyFile(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return nil, mistake(ErrKeyCorrupt, "it is no file of less than %d bytes", maxKeyFile)
	}
	return os.ReadFile(file)
}

// ParsePublicKey reads what [LoadPublicKey] reads from a file.
func ParsePublicKey(data []byte) (PublicKey, error) {
	block, rest := pem.Decode(data)
	if block == nil {
		return PublicKey{}, mistake(ErrKeyCorrupt, "no PEM block in it; cosign generate-key-pair writes one")
	}
	switch {
	case strings.Contains(block.Type, "PRIVATE"):
		return PublicKey{}, mistake(ErrKeyCorrupt, "it is a private key, which must not be handed out: give the public one (cosign.pub)")
	case block.Type != "PUBLIC KEY":
		return PublicKey{}, mistake(ErrKeyCorrupt, "the PEM block is %q and not \"PUBLIC KEY\"", block.Type)
	case len(bytes.TrimSpace(rest)) > 0:
		return PublicKey{}, mistake(ErrKeyCorrupt, "more than one PEM block in it: one file for each key")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return PublicKey{}, mistake(ErrKeyCorrupt, "%w", err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return PublicKey{}, mistake(ErrKeyCorrupt, "a key of type %T: only ECDSA on P-256 is supported", parsed)
	}
	return publicKey(key)
}

func publicKey(key *ecdsa.PublicKey) (PublicKey, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	return PublicKey{key: key, der: der}, err
}

// PEM is the key as a file has it.
func (k PublicKey) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.der})
}

// Fingerprint is "SHA256:" and the hash of the key's DER form in hexadecimal; empty for
// the zero value.
func (k PublicKey) Fingerprint() string {
	if k.key == nil {
		return ""
	}
	return fmt.Sprintf("SHA256:%x", sha256.Sum256(k.der))
}

// hint is how sigstore names a key in a bundle. Nobody vouches for it.
func (k PublicKey) hint() string {
	sum := sha256.Sum256(k.der)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// VerifyBlob checks a signature of [Key.SignBlob], or of `cosign sign-blob` before its
// base64. An error wraps [ErrWrongKey]: other data and another key look the same.
func (k PublicKey) VerifyBlob(data, sig []byte) error {
	if k.key == nil {
		return mistake(ErrKeyMissing, "there is no key to verify with")
	}
	sum := sha256.Sum256(data)
	if !ecdsa.VerifyASN1(k.key, sum[:], sig) {
		return mistake(ErrWrongKey, "the signature is not by %s over these bytes", k.Fingerprint())
	}
	return nil
}
