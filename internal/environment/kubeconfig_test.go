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
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/kubeconfig"
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

const theirs = `apiVersion: v1
kind: Config
current-context: work
contexts: [{name: work, context: {cluster: work, user: work}}]
clusters: [{name: work, cluster: {server: "https://work.example.org"}}]
users: [{name: work, user: {token: x}}]
`

// A person's kubeconfig has the environment while it exists. Then all is as it was, however often
// it was merged; what cannot be taken out is told with what to do.
func TestMergedAndTakenOut(t *testing.T) {
	s := newSmall(t)
	dir := t.TempDir()
	file, other := filepath.Join(dir, "config"), filepath.Join(dir, "other")
	if err := os.WriteFile(file, []byte(theirs), 0o600); err != nil {
		t.Fatal(err)
	}
	p := s.open(Selection{})
	if _, err := p.MergeKubeconfig(t.Context(), file, 0); err == nil || !strings.Contains(err.Error(), "is absent and has no kubeconfig") {
		t.Errorf("before it is there: %v", err)
	}
	s.mustUpWith(p)
	defer p.Close()
	for range 2 {
		if _, err := p.MergeKubeconfig(t.Context(), file, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.MergeKubeconfig(t.Context(), other, 0); err != nil {
		t.Fatal(err)
	}
	if current, err := kubeconfig.Current(file); err != nil || current != p.ContextName() {
		t.Errorf("current is %q, %v", current, err)
	}
	if err := os.WriteFile(other, []byte("{"), 0o600); err != nil { // which nobody can read any more
		t.Fatal(err)
	}
	if err := p.unmergeKubeconfigs(); err == nil || !strings.Contains(err.Error(), "kubectl --kubeconfig "+other+" config delete-context orrery-small") {
		t.Errorf("%v", err)
	}
	if current, err := kubeconfig.Current(file); err != nil || current != "work" {
		t.Errorf("afterwards current is %q, %v", current, err)
	}
	if text, err := os.ReadFile(file); err != nil || strings.Contains(string(text), "orrery-small") {
		t.Errorf("%v\n%s", err, text)
	}
	left := slices.DeleteFunc(p.journal.Live(), func(f driver.Effect) bool { return f.Kind != kubeconfigEffect })
	if len(left) != 1 || left[0].ID != other {
		t.Errorf("the journal has %v", left)
	}
}

// How long a key lasts is bounded, and no question where others make it.
func TestLifeOfAKey(t *testing.T) {
	s := newSmall(t)
	s.mustUp(Selection{})
	p := s.open(Selection{})
	defer p.Close()
	for _, life := range []time.Duration{-time.Hour, MaxLife + time.Hour} {
		if _, _, err := p.Issue(t.Context(), life); !failure.IsUsage(err) || !strings.Contains(err.Error(), "--ttl") {
			t.Errorf("%s: %v", life, err)
		}
	}
	if text, ends, err := p.Issue(t.Context(), 0); err != nil || len(text) == 0 || time.Until(ends) > DefaultLife || time.Until(ends) < DefaultLife-time.Hour {
		t.Errorf("%d bytes until %s, %v", len(text), ends, err)
	}
	p.Driver = struct{ driver.Driver }{p.Driver} // one that makes no keys
	if _, _, err := p.Issue(t.Context(), time.Hour); !failure.IsUsage(err) {
		t.Errorf("%v", err)
	}
	if text, ends, err := p.Issue(t.Context(), 0); err != nil || len(text) == 0 || !ends.IsZero() {
		t.Errorf("%d bytes until %s, %v", len(text), ends, err)
	}
}
