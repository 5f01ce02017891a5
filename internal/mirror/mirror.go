package mirror

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Host is how manifests name the environment's mirror registry. Nodes resolve it through
// containerd's host configuration, never through DNS.
const Host = "registry.orrery.internal"

// User is who writes to a mirror, see [Mirror.PasswordFile].
const User = "orrery"

// Mirror is a registry that speaks plain HTTP on this machine, as its clients know it. It is
// an [authn.Authenticator].
type Mirror struct {
	// Address is HOST:PORT.
	Address string
	// PasswordFile holds the password of [User]. Without it, or while there is no such file,
	// nothing but reading is possible where a [Gate] stands before the registry.
	PasswordFile string
}

var _ authn.Authenticator = Mirror{}

func (m Mirror) String() string { return m.Address }

// Authorization implements [authn.Authenticator].
func (m Mirror) Authorization() (*authn.AuthConfig, error) {
	password, err := m.password()
	if err != nil || password == "" {
		return &authn.AuthConfig{}, err
	}
	return &authn.AuthConfig{Username: User, Password: password}, nil
}

// Authorize adds the credential to a request.
func (m Mirror) Authorize(r *http.Request) error {
	password, err := m.password()
	if err == nil && password != "" {
		r.SetBasicAuth(User, password)
	}
	return err
}

// password is empty when there is none.
func (m Mirror) password() (string, error) {
	if m.PasswordFile == "" {
		return "", nil
	}
	return ReadPassword(m.PasswordFile)
}

// NewPassword makes the content of a password file.
func NewPassword() []byte {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // it never fails
	return []byte(base64.RawURLEncoding.EncodeToString(b) + "\n")
}

// ReadPassword reads what [NewPassword] made; an absent file is an empty password.
func ReadPassword(file string) (string, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the mirror's password: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
