package kubeconfig

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"path/filepath"
	"testing"
	"time"
)

func TestCertificate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 12, 7, 3, 0, 0, 0, time.UTC)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: at.Add(-time.Hour), NotAfter: at}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.StdEncoding.EncodeToString
	path := filepath.Join(t.TempDir(), "config")
	write(t, path, fmt.Sprintf(`users:
- {name: key, user: {client-certificate-data: %s}}
- {name: token, user: {token: t}}
- {name: no-base64, user: {client-certificate-data: "?"}}
- {name: no-certificate, user: {client-certificate-data: %s}}
`, encode(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		encode(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}))), 0o600)
	if c, err := Certificate(path, "key"); err != nil || !c.NotAfter.Equal(at) {
		t.Errorf("%+v, %v", c, err)
	}
	for _, user := range []string{"token", "nobody"} {
		if c, err := Certificate(path, user); err != nil || c != nil {
			t.Errorf("%s has %+v, %v", user, c, err)
		}
	}
	for _, user := range []string{"no-base64", "no-certificate"} {
		if c, err := Certificate(path, user); err == nil {
			t.Errorf("%s has %+v", user, c)
		}
	}
	if c, err := Certificate(path+".gone", "key"); err != nil || c != nil {
		t.Errorf("a file that is not there: %+v, %v", c, err)
	}
}
