package mirror

import (
	"context"
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

// Repository is the URL of what the registry has under a name, and a client of it. It reads
// without the password, and writes with it; no request goes elsewhere, and no proxy is asked.
func (m Mirror) Repository(_ context.Context, name string, _ bool) (url string, client *http.Client, err error) {
	return "http://" + m.Address + "/v2/" + name, &http.Client{
		Transport:     authorized{m},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// direct is shared, so that connections are.
var direct = &http.Transport{MaxIdleConnsPerHost: 32, DisableCompression: true}

// authorized writes with the password of a mirror.
type authorized struct{ Mirror }

// RoundTrip implements [http.RoundTripper]. The registry says where an upload goes on: the
// password goes nowhere else.
func (a authorized) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet || r.Method == http.MethodHead || r.URL.Host != a.Address {
		return direct.RoundTrip(r)
	}
	r = r.Clone(r.Context())
	if err := a.Authorize(r); err != nil {
		return nil, err
	}
	return direct.RoundTrip(r)
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
