package sign

import (
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"golang.org/x/crypto/nacl/secretbox"
	"golang.org/x/crypto/scrypt"
)

// pemType is cosign's. It writes this one and reads "ENCRYPTED COSIGN PRIVATE KEY" too.
const (
	pemType    = "ENCRYPTED SIGSTORE PRIVATE KEY"
	oldPEMType = "ENCRYPTED COSIGN PRIVATE KEY"
)

// sealed is the JSON inside the PEM block of a private key: go-securesystemslib's form,
// which cosign uses. Byte strings are base64.
type sealed struct {
	KDF struct {
		Name   string `json:"name"`
		Params params `json:"params"`
		Salt   []byte `json:"salt"`
	} `json:"kdf"`
	Cipher struct {
		Name  string `json:"name"`
		Nonce []byte `json:"nonce"`
	} `json:"cipher"`
	Ciphertext []byte `json:"ciphertext"`
}

// params are those of scrypt (RFC 7914).
type params struct {
	N int `json:"N"`
	R int `json:"r"`
	P int `json:"p"`
}

const (
	kdfName    = "scrypt"
	cipherName = "nacl/secretbox"
)

// standard is what cosign writes: about 100 ms and 64 MiB for each guess.
var standard = params{N: 1 << 16, R: 8, P: 1}

// allowed are the parameters that cosign accepts. Others are refused: a file could ask
// for all the memory there is.
func (p params) allowed() bool {
	return p.R == 8 && p.P == 1 && (p.N == 1<<15 || p.N == 1<<16 || p.N == 1<<17)
}

// seal encrypts a private key with a password.
func seal(key, password []byte) ([]byte, error) {
	var s sealed
	s.KDF.Name, s.KDF.Params, s.Cipher.Name = kdfName, standard, cipherName
	s.KDF.Salt, s.Cipher.Nonce = make([]byte, 32), make([]byte, 24)
	_, _ = rand.Read(s.KDF.Salt) // which never fails
	_, _ = rand.Read(s.Cipher.Nonce)
	secret, err := s.secret(password)
	if err != nil {
		return nil, err
	}
	s.Ciphertext = secretbox.Seal(nil, key, (*[24]byte)(s.Cipher.Nonce), secret)
	data, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: data}), nil
}

// parseSealed reads the file of a private key, without opening it.
func parseSealed(file []byte) (*sealed, error) {
	block, _ := pem.Decode(file)
	if block == nil {
		return nil, mistake(ErrKeyCorrupt, "no PEM block in it")
	}
	if block.Type != pemType && block.Type != oldPEMType {
		return nil, mistake(ErrKeyCorrupt, "the PEM block is %q and not %q", block.Type, pemType)
	}
	s := &sealed{}
	if err := json.Unmarshal(block.Bytes, s); err != nil {
		return nil, mistake(ErrKeyCorrupt, "inside the PEM block: %w", err)
	}
	switch {
	case s.KDF.Name != kdfName || s.Cipher.Name != cipherName:
		return nil, mistake(ErrKeyCorrupt, "encrypted with %q and %q and not %q and %q", s.KDF.Name, s.Cipher.Name, kdfName, cipherName)
	case !s.KDF.Params.allowed():
		return nil, mistake(ErrKeyCorrupt, "scrypt with N=%d r=%d p=%d, which cosign does not write", s.KDF.Params.N, s.KDF.Params.R, s.KDF.Params.P)
	case len(s.Cipher.Nonce) != 24 || len(s.KDF.Salt) == 0 || len(s.Ciphertext) < secretbox.Overhead:
		return nil, mistake(ErrKeyCorrupt, "salt, nonce or ciphertext too short")
	}
	return s, nil
}

var errNotOpened = errors.New("it does not open the key")

// open decrypts. An error says that the password is wrong: secretbox cannot tell that
// from damage.
func (s *sealed) open(password []byte) ([]byte, error) {
	secret, err := s.secret(password)
	if err != nil {
		return nil, err
	}
	key, ok := secretbox.Open(nil, s.Ciphertext, (*[24]byte)(s.Cipher.Nonce), secret)
	if !ok {
		return nil, errNotOpened
	}
	return key, nil
}

func (s *sealed) secret(password []byte) (*[32]byte, error) {
	p := s.KDF.Params
	secret, err := scrypt.Key(password, s.KDF.Salt, p.N, p.R, p.P, 32)
	if err != nil {
		return nil, fmt.Errorf("derive the key's key: %w", err)
	}
	return (*[32]byte)(secret), nil
}
