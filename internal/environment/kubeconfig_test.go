package environment

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A key in a person's kubeconfig does not end without a word.
func TestAKeyThatEndsIsTold(t *testing.T) {
	s := newSmall(t)
	p := s.open(Selection{})
	defer p.Close()
	file := filepath.Join(t.TempDir(), "config")
	t.Setenv("KUBECONFIG", file)
	now := time.Now()
	for left, want := range map[time.Duration]string{25 * time.Hour: "", 23 * time.Hour: " ends at ", -time.Hour: " ended at "} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(left - DefaultLife), NotAfter: now.Add(left)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("users: [{name: orrery-small, user: {client-certificate-data: %s}}]\n",
			base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		lines := strings.Join(p.endingKey(now), "\n")
		if want == "" && lines != "" || !strings.Contains(lines, want) || want != "" && !strings.Contains(lines, "kubeconfig --env small --merge") {
			t.Errorf("%s before its end: %q", left, lines)
		}
	}
}
