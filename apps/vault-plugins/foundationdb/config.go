package foundationdb

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	configKey = "config"
	// longest is how long a certificate may live, which nobody can take back.
	longest = 24 * time.Hour
	// skew of the clocks of those who verify.
	skew = time.Minute
)

var errNotConfigured = errors.New("the engine has no authority yet; write its config first")

// config is the authority.
type config struct {
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
	// Previous authorities are still believed, until what they issued has ended.
	Previous []previous `json:"previous,omitempty"`
}

type previous struct {
	Certificate string    `json:"certificate"`
	Until       time.Time `json:"until"`
}

func loadConfig(ctx context.Context, s logical.Storage) (*config, error) {
	entry, err := s.Get(ctx, configKey)
	if err != nil {
		return nil, err
	}
	if entry == nil {
		return nil, errNotConfigured
	}
	var c config
	return &c, entry.DecodeJSON(&c)
}

func (c *config) save(ctx context.Context, s logical.Storage) error {
	entry, err := logical.StorageEntryJSON(configKey, c)
	if err != nil {
		return err
	}
	return s.Put(ctx, entry)
}

// authority of a pair in PEM.
func authority(certificate, key string) (*x509.Certificate, crypto.Signer, error) {
	pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	if err != nil {
		return nil, nil, fmt.Errorf("authority: %w", err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, nil, errors.New("authority: the certificate is none of an authority")
	}
	if time.Until(pair.Leaf.NotAfter) <= 0 {
		return nil, nil, errors.New("authority: the certificate has ended")
	}
	return pair.Leaf, signer, nil
}

func newAuthority() (*config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "FoundationDB clients " + serial.Text(36)[:6], Organization: []string{"orrery"}},
		NotBefore: time.Now().Add(-skew), NotAfter: time.Now().AddDate(5, 0, 0),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	text, err := keyPEM(key)
	return &config{Certificate: certificatePEM(der), Key: text}, err
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

func certificatePEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func keyPEM(key *ecdsa.PrivateKey) (string, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), err
}

// bundle of all authorities that FoundationDB is to believe.
func (c *config) bundle() string {
	all := []string{c.Certificate}
	for _, p := range c.Previous {
		if time.Now().Before(p.Until) {
			all = append(all, p.Certificate)
		}
	}
	return strings.Join(all, "")
}

func (b *backend) configPath() *framework.Path {
	return &framework.Path{
		Pattern:      "config",
		HelpSynopsis: "The authority that issues; without a certificate of yours, one is made.",
		Fields: map[string]*framework.FieldSchema{
			"certificate": {Type: framework.TypeString, Description: "PEM of the authority."},
			"key":         {Type: framework.TypeString, Description: "PEM of its private key."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   &framework.PathOperation{Callback: b.readConfig},
			logical.UpdateOperation: &framework.PathOperation{Callback: b.writeConfig},
		},
	}
}

func (b *backend) readConfig(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	c, err := loadConfig(ctx, req.Storage)
	if errors.Is(err, errNotConfigured) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{"certificate": c.Certificate, "ca_bundle": c.bundle()}}, nil
}

func (b *backend) writeConfig(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	b.changing.Lock()
	defer b.changing.Unlock()
	c := &config{Certificate: d.Get("certificate").(string), Key: d.Get("key").(string)}
	if c.Certificate == "" && c.Key == "" {
		if _, err := loadConfig(ctx, req.Storage); err == nil {
			return nil, nil // there is one; config/rotate makes another
		} else if !errors.Is(err, errNotConfigured) {
			return nil, err
		}
		var err error
		if c, err = newAuthority(); err != nil {
			return nil, err
		}
	}
	if _, _, err := authority(c.Certificate, c.Key); err != nil {
		return logical.ErrorResponse(err.Error()), nil
	}
	return nil, c.save(ctx, req.Storage)
}

func (b *backend) rotatePath() *framework.Path {
	return &framework.Path{
		Pattern:      "config/rotate",
		HelpSynopsis: "Issue from a new authority from now on.",
		Fields: map[string]*framework.FieldSchema{
			"forget": {Type: framework.TypeBool, Description: "Leave the authority before it out of the bundle at once: a key was stolen."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{logical.UpdateOperation: &framework.PathOperation{Callback: b.rotate}},
	}
}

func (b *backend) rotate(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	b.changing.Lock()
	defer b.changing.Unlock()
	old, err := loadConfig(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	c, err := newAuthority()
	if err != nil {
		return nil, err
	}
	if !d.Get("forget").(bool) {
		c.Previous = []previous{{old.Certificate, time.Now().Add(longest)}}
		for _, p := range old.Previous {
			if time.Now().Before(p.Until) {
				c.Previous = append(c.Previous, p)
			}
		}
	}
	if err := c.save(ctx, req.Storage); err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{"certificate": c.Certificate, "ca_bundle": c.bundle()}}, nil
}
