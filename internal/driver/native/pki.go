package native

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"slices"
	"sort"
	"time"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 365 * 24 * time.Hour
	// backdate lets a certificate be valid on a machine whose clock is a little behind.
	backdate = 5 * time.Minute
)

// authority is a certificate authority whose key never leaves the state directory's pki folder.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte
}

// leaf says what a certificate has to be.
type leaf struct {
	cn     string
	orgs   []string
	names  []string // DNS names and addresses of a server
	server bool
	client bool
}

// issuer makes and keeps keys and certificates. Its clock can be set by a test.
type issuer struct {
	now func() time.Time
	// issued counts certificates written, so that a caller can tell whether anything changed.
	issued int
}

// authority loads the authority at base (base.crt, base.key) or makes it.
func (i *issuer) authority(base, cn string) (*authority, error) {
	cert, key, raw, err := loadPair(base)
	switch {
	case err == nil:
		if i.now().After(cert.NotAfter) {
			return nil, fmt.Errorf(
				"the certificate authority %s.crt expired on %s: make the environment anew ('orrery down', 'orrery up')",
				base,
				cert.NotAfter.Format(time.DateOnly),
			)
		}
		return &authority{cert, key, raw}, nil
	case !errors.Is(err, fs.ErrNotExist):
		// A damaged authority must not be replaced silently: every certificate hangs on it.
		return nil, fmt.Errorf("certificate authority %s: %w; restore it or make the environment anew ('orrery down', 'orrery up')", base, err)
	}
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: cn}, NotBefore: i.now().Add(-backdate), NotAfter: i.now().Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	if err := i.write(base, t, nil); err != nil {
		return nil, err
	}
	cert, key, raw, err = loadPair(base)
	return &authority{cert, key, raw}, err
}

// leaf keeps the pair at base when it is what l says, comes from ca and has a third of
// its life left; otherwise it makes a new key and certificate.
func (i *issuer) leaf(ca *authority, base string, l leaf) error {
	t := i.template(ca, l, leafLife)
	if have, _, _, err := loadPair(base); err == nil && i.keeps(have, t, ca) {
		return nil
	}
	return i.write(base, t, ca)
}

// template of a certificate that outlives neither life nor ca.
func (i *issuer) template(ca *authority, l leaf, life time.Duration) *x509.Certificate {
	t := &x509.Certificate{
		Subject:   pkix.Name{CommonName: l.cn, Organization: l.orgs},
		NotBefore: i.now().Add(-backdate), NotAfter: i.now().Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	if l.client {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	if l.server {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, n := range l.names {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	if t.NotAfter.After(ca.cert.NotAfter) {
		t.NotAfter = ca.cert.NotAfter
	}
	return t
}

// keeps reports whether have still does what want would.
func (i *issuer) keeps(have, want *x509.Certificate, ca *authority) bool {
	left, life := have.NotAfter.Sub(i.now()), have.NotAfter.Sub(have.NotBefore)
	return left > life/3 && !i.now().Before(have.NotBefore) &&
		have.CheckSignatureFrom(ca.cert) == nil &&
		have.Subject.String() == want.Subject.String() &&
		slices.Equal(have.ExtKeyUsage, want.ExtKeyUsage) &&
		slices.Equal(altNames(have), altNames(want))
}

func altNames(c *x509.Certificate) []string {
	s := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		s = append(s, ip.String())
	}
	sort.Strings(s)
	return s
}

// write keeps at base what [makePair] makes.
func (i *issuer) write(base string, t *x509.Certificate, ca *authority) error {
	crt, key, err := makePair(t, ca)
	if err != nil {
		return fmt.Errorf("certificate %s: %w", base, err)
	}
	if _, err := writeFile(base+".key", key); err != nil {
		return err
	}
	i.issued++
	_, err = writeFile(base+".crt", crt)
	return err
}

// makePair makes a key, and a certificate from t, signed by ca or, when ca is nil, by itself.
func makePair(t *x509.Certificate, ca *authority) (crt, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if t.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, nil, err
	}
	parent, signer := t, crypto.Signer(private)
	if ca != nil {
		parent, signer = ca.cert, ca.key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, &private.PublicKey, signer)
	if err != nil {
		return nil, nil, err
	}
	key, err = encodeKey(private)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key, err
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

// loadPair reads base.crt and base.key and checks that they belong together.
func loadPair(base string) (*x509.Certificate, crypto.Signer, []byte, error) {
	raw, err := os.ReadFile(base + ".crt")
	if err != nil {
		return nil, nil, nil, err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, nil, nil, errors.New("no PEM in the .crt file")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, nil, err
	}
	key, err := loadKey(base + ".key")
	if err != nil {
		return nil, nil, nil, err
	}
	pub, ok := key.Public().(*ecdsa.PublicKey)
	if !ok || !pub.Equal(cert.PublicKey) {
		return nil, nil, nil, errors.New("key and certificate do not belong together")
	}
	return cert, key, raw, nil
}

func loadKey(path string) (crypto.Signer, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM in it", path)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: a %T cannot sign", path, k)
	}
	return s, nil
}

// signingKey keeps or makes the key that signs service account tokens (path.key, path.pub).
func signingKey(base string) (private, public []byte, err error) {
	key, err := loadKey(base + ".key")
	if errors.Is(err, fs.ErrNotExist) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		encoded, err := encodeKey(k)
		if err != nil {
			return nil, nil, err
		}
		if _, err := writeFile(base+".key", encoded); err != nil {
			return nil, nil, err
		}
		key = k
	} else if err != nil {
		return nil, nil, err
	}
	if private, err = os.ReadFile(base + ".key"); err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, nil, err
	}
	return private, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}
