package foundationdb

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) credsPath() *framework.Path {
	return &framework.Path{
		Pattern:      "creds/" + framework.GenericNameRegex("name"),
		HelpSynopsis: "A client certificate of a role, with a lease.",
		Fields:       map[string]*framework.FieldSchema{"name": {Type: framework.TypeLowerCaseString, Description: "Name of the role."}},
		Operations:   map[logical.Operation]framework.OperationHandler{logical.ReadOperation: &framework.PathOperation{Callback: b.issue}},
	}
}

// certificate is not renewed: its end stands in it. It has nothing to revoke either, see the package.
func certificate() *framework.Secret {
	return &framework.Secret{
		Type: "foundationdb_certificate",
		Fields: map[string]*framework.FieldSchema{
			"certificate": {Type: framework.TypeString, Description: "PEM of the certificate."},
			"key":         {Type: framework.TypeString, Description: "PEM of the private key."},
		},
		Revoke: func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
			return nil, nil
		},
	}
}

func (b *backend) issue(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	r, err := loadRole(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return logical.ErrorResponse("there is no role %q", name), nil
	}
	c, err := loadConfig(ctx, req.Storage)
	if errors.Is(err, errNotConfigured) {
		return logical.ErrorResponse(err.Error()), nil
	}
	if err != nil {
		return nil, err
	}
	parent, signer, err := authority(c.Certificate, c.Key)
	if err != nil {
		return nil, err
	}
	ttl, _, err := framework.CalculateTTL(b.System(), 0, r.TTL, 0, r.TTL, 0, time.Time{})
	if err != nil {
		return nil, err
	}
	// A certificate that outlives its authority would be believed by nobody.
	if left := time.Until(parent.NotAfter).Truncate(time.Second); ttl > left {
		return nil, fmt.Errorf("the authority ends in %s, before the certificate would: rotate it", left)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: now.Add(-skew), NotAfter: now.Add(ttl), Subject: pkix.Name{CommonName: r.CommonName},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	if r.Organization != "" {
		template.Subject.Organization = []string{r.Organization}
	}
	if r.OrganizationUnit != "" {
		template.Subject.OrganizationalUnit = []string{r.OrganizationUnit}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, fmt.Errorf("issue a certificate of role %s: %w", name, err)
	}
	text, err := keyPEM(key)
	if err != nil {
		return nil, err
	}
	response := certificate().Response(map[string]any{
		"certificate": certificatePEM(der), "key": text, "ca_bundle": c.bundle(), "serial_number": serial.Text(16),
		"expires_at": template.NotAfter.UTC().Format(time.RFC3339),
	}, map[string]any{"serial_number": serial.Text(16)})
	response.Secret.TTL, response.Secret.MaxTTL, response.Secret.Renewable = ttl, ttl, false
	return response, nil
}
