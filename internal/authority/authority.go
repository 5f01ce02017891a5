package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net"
	"time"
)

// Lifetime of an authority: as long as an environment may live.
const Lifetime = 10 * 365 * 24 * time.Hour

// backdate is for clocks that are behind.
const backdate = time.Minute

// Pair is a certificate and its key, PEM each.
type Pair struct {
	Certificate, Key []byte
}

// New makes an authority that may sign for names within domains and for loopback addresses, and
// for nothing else: whoever trusts it trusts it with no name of the internet.
func New(name string, domains []string, now time.Time) (Pair, error) {
	if len(domains) == 0 {
		return Pair{}, errors.New("an authority needs the domains that it may sign for")
	}
	serial, err := newSerial()
	if err != nil {
		return Pair{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{"Orrery"}, CommonName: name},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(Lifetime),
		IsCA: true, BasicConstraintsValid: true, MaxPathLen: 1,
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         domains,
		PermittedIPRanges: []*net.IPNet{
			{IP: net.IPv4(127, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)},
			{IP: net.IPv6loopback, Mask: net.CIDRMask(128, 128)},
		},
	}
	return sign(template, template, &key.PublicKey, key, key)
}

// Request is what a certificate is asked for with.
type Request struct {
	CommonName  string
	DNSNames    []string
	IPAddresses []net.IP
	Lifetime    time.Duration
	Usages      []x509.ExtKeyUsage
}

// Issue signs a certificate with a new key (ECDSA, P-256).
func (p Pair) Issue(r Request, now time.Time) (Pair, error) {
	issuer, err := Parse(p.Certificate)
	if err != nil {
		return Pair{}, fmt.Errorf("certificate of the authority: %w", err)
	}
	block, _ := pem.Decode(p.Key)
	if block == nil {
		return Pair{}, errors.New("key of the authority: no PEM in it")
	}
	issuerKey, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return Pair{}, fmt.Errorf("key of the authority: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return Pair{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: r.CommonName},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(r.Lifetime),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, ExtKeyUsage: r.Usages,
		DNSNames: r.DNSNames, IPAddresses: r.IPAddresses,
	}
	if template.NotAfter.After(issuer.NotAfter) {
		template.NotAfter = issuer.NotAfter
	}
	return sign(template, issuer, &key.PublicKey, key, issuerKey)
}

// Sound reports why a certificate has to be issued anew: it ends within left, the authority did
// not sign it, it lacks a name that is asked for, or is for other uses. It is nil for one that will do.
func (p Pair) Sound(authority []byte, asked Request, left time.Duration, now time.Time) error {
	c, err := Parse(p.Certificate)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return errors.New("the authority is no certificate")
	}
	if now.Add(left).After(c.NotAfter) {
		return fmt.Errorf("it ends at %s", c.NotAfter.UTC().Format(time.RFC3339))
	}
	o := x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	if _, err := c.Verify(o); err != nil {
		return err
	}
	have := map[string]bool{}
	for _, n := range c.DNSNames {
		have[n] = true
	}
	for _, n := range asked.DNSNames {
		if !have[n] {
			return fmt.Errorf("it is not for %s", n)
		}
	}
	if !maps.Equal(setOf(c.ExtKeyUsage), setOf(asked.Usages)) {
		return errors.New("it is for other uses (server, client) than what is asked for")
	}
	return nil
}

func setOf(usages []x509.ExtKeyUsage) map[x509.ExtKeyUsage]bool {
	set := map[x509.ExtKeyUsage]bool{}
	for _, u := range usages {
		set[u] = true
	}
	return set
}

// Parse reads the first certificate of a PEM.
func Parse(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no certificate in PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

func sign(template, issuer *x509.Certificate, public *ecdsa.PublicKey, key, issuerKey *ecdsa.PrivateKey) (Pair, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, public, issuerKey)
	if err != nil {
		return Pair{}, err
	}
	// As cert-manager encodes it, which then takes the key for its own.
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return Pair{}, err
	}
	return Pair{
		Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:         pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}),
	}, nil
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}
