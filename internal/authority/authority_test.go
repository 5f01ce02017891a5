package authority

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func request(names ...string) Request {
	return Request{DNSNames: names, Lifetime: time.Hour, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
}

func TestIssue(t *testing.T) {
	ca, err := New("Orrery test", []string{"svc", "cluster.local"}, now)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := ca.Issue(request("nats.messaging.svc", "*.nats-headless.messaging.svc"), now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(issued.Certificate, issued.Key); err != nil {
		t.Fatal(err)
	}
	other, err := New("Orrery other", []string{"svc"}, now)
	if err != nil {
		t.Fatal(err)
	}
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	for _, c := range []struct {
		name      string
		authority []byte
		asked     Request
		left      time.Duration
		at        time.Time
		wrong     string
	}{
		{"sound", ca.Certificate, request("nats.messaging.svc"), 20 * time.Minute, now, ""},
		{"about to end", ca.Certificate, request(), 20 * time.Minute, now.Add(50 * time.Minute), "it ends at 2026-03-01T01:00:00Z"},
		{"ended", ca.Certificate, request(), 0, now.Add(2 * time.Hour), "it ends at"},
		{"of another authority", other.Certificate, request(), 0, now, "unknown authority"},
		{"a name more", ca.Certificate, request("other.svc"), 0, now, "not for other.svc"},
		{"a use more", ca.Certificate, Request{Usages: both}, 0, now, "other uses"},
		{"a use less", ca.Certificate, Request{}, 0, now, "other uses"},
		{"no authority", []byte("x"), request(), 0, now, "no certificate"},
	} {
		err := issued.Sound(c.authority, c.asked, c.left, c.at)
		if got := ""; err != nil {
			got = err.Error()
			if c.wrong == "" || !strings.Contains(got, c.wrong) {
				t.Errorf("%s: %q, want %q", c.name, got, c.wrong)
			}
		} else if c.wrong != "" {
			t.Errorf("%s: taken for sound", c.name)
		}
	}
}

// TestConstraints: what such an authority signs for a name of the internet is believed by nobody.
func TestConstraints(t *testing.T) {
	ca, err := New("Orrery test", []string{"svc"}, now)
	if err != nil {
		t.Fatal(err)
	}
	for name, good := range map[string]bool{"a.b.svc": true, "example.org": false, "svc.example.org": false} {
		issued, err := ca.Issue(request(name), now)
		if err != nil {
			t.Fatal(err)
		}
		if err := issued.Sound(ca.Certificate, request(), 0, now); (err == nil) != good {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New("Orrery test", nil, now); err == nil {
		t.Error("an authority for every name was made")
	}
}

func TestIssueRefuses(t *testing.T) {
	ca, err := New("Orrery test", []string{"svc"}, now)
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]Pair{
		"no certificate": {Key: ca.Key}, "no key": {Certificate: ca.Certificate},
		"another's key": {Certificate: ca.Certificate, Key: []byte("-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n")},
	} {
		if _, err := p.Issue(request("a.svc"), now); err == nil {
			t.Errorf("%s: issued", name)
		}
	}
}
