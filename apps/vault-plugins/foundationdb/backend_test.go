package foundationdb

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// mount is the engine, as Vault holds it.
type mount struct {
	t       testing.TB
	engine  logical.Backend
	storage logical.Storage
}

func newMount(t testing.TB) *mount {
	t.Helper()
	m := &mount{t: t, storage: &logical.InmemStorage{}}
	config := logical.TestBackendConfig()
	config.StorageView = m.storage
	engine, err := Factory(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	m.engine = engine
	m.must(logical.UpdateOperation, "config", nil)
	m.must(logical.UpdateOperation, "roles/shop", map[string]any{"common_name": "shop", "organization_unit": "clients", "ttl": 3600})
	return m
}

func (m *mount) do(op logical.Operation, path string, data map[string]any) (*logical.Response, error) {
	response, err := m.engine.HandleRequest(m.t.Context(), &logical.Request{Operation: op, Path: path, Data: data, Storage: m.storage})
	if err == nil && response.IsError() {
		err = response.Error()
	}
	return response, err
}

func (m *mount) must(op logical.Operation, path string, data map[string]any) *logical.Response {
	m.t.Helper()
	response, err := m.do(op, path, data)
	if err != nil {
		m.t.Fatalf("%s %s: %v", op, path, err)
	}
	return response
}

func (m *mount) bundle() string {
	return m.must(logical.ReadOperation, "config", nil).Data["ca_bundle"].(string)
}

// peers stands in for a FoundationDB whose tls_verify_peers is Check.Valid=1,S.OU=clients,S.CN=shop.
func peers(bundle string, now time.Time) *tls.Config {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(bundle))
	return &tls.Config{
		MinVersion: tls.VersionTLS12, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots, Time: func() time.Time { return now },
		VerifyConnection: func(s tls.ConnectionState) error {
			var subject pkix.Name = s.PeerCertificates[0].Subject
			if subject.CommonName != "shop" || strings.Join(subject.OrganizationalUnit, "") != "clients" {
				return errors.New("no rule lets this subject in")
			}
			return nil
		},
	}
}

// dial says whether the server lets the certificate in.
func dial(t testing.TB, server *tls.Config, certificate, key any) error {
	t.Helper()
	pair, err := tls.X509KeyPair([]byte(certificate.(string)), []byte(key.(string)))
	if err != nil {
		t.Fatal(err)
	}
	own := newMount(t) // an authority for the server's own certificate
	own.must(logical.UpdateOperation, "roles/shop", map[string]any{"common_name": "server", "ttl": 60})
	data := own.must(logical.ReadOperation, "creds/shop", nil).Data
	serverPair, err := tls.X509KeyPair([]byte(data["certificate"].(string)), []byte(data["key"].(string)))
	if err != nil {
		t.Fatal(err)
	}
	server = server.Clone()
	server.Certificates = []tls.Certificate{serverPair}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	go func() {
		// What the server presents is not what is tested here.
		client := tls.Client(a, &tls.Config{Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
		_ = client.HandshakeContext(ctx)
		_, _ = client.Read(make([]byte, 1))
	}()
	return tls.Server(b, server).HandshakeContext(ctx)
}

// TestLease: FoundationDB lets the certificate in as long as the lease lives, and no longer.
func TestLease(t *testing.T) {
	m := newMount(t)
	response := m.must(logical.ReadOperation, "creds/shop", nil)
	if response.Secret.TTL != time.Hour || response.Secret.Renewable {
		t.Errorf("lease: %+v", response.Secret.LeaseOptions)
	}
	certificate, key := response.Data["certificate"], response.Data["key"]
	if err := dial(t, peers(m.bundle(), time.Now()), certificate, key); err != nil {
		t.Error(err)
	}
	if err := dial(t, peers(m.bundle(), time.Now().Add(time.Hour+time.Second)), certificate, key); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("after the lease: %v", err)
	}
	if err := dial(t, peers(newMount(t).bundle(), time.Now()), certificate, key); err == nil {
		t.Error("another authority's server lets it in")
	}
	m.must(logical.UpdateOperation, "roles/other", map[string]any{"common_name": "other", "organization_unit": "clients"})
	other := m.must(logical.ReadOperation, "creds/other", nil).Data
	if err := dial(t, peers(m.bundle(), time.Now()), other["certificate"], other["key"]); err == nil {
		t.Error("the rule lets another role in")
	}
}

// TestRotate: both authorities are believed for as long as something of the first may live; a stolen one is not.
func TestRotate(t *testing.T) {
	m := newMount(t)
	before := m.must(logical.ReadOperation, "creds/shop", nil).Data
	m.must(logical.UpdateOperation, "config", nil) // no other authority comes of it
	m.must(logical.UpdateOperation, "config/rotate", nil)
	after := m.must(logical.ReadOperation, "creds/shop", nil).Data
	for _, data := range []map[string]any{before, after} {
		if err := dial(t, peers(m.bundle(), time.Now()), data["certificate"], data["key"]); err != nil {
			t.Error(err)
		}
	}
	m.must(logical.UpdateOperation, "config/rotate", map[string]any{"forget": true})
	for _, data := range []map[string]any{before, after} {
		if err := dial(t, peers(m.bundle(), time.Now()), data["certificate"], data["key"]); err == nil {
			t.Error("a forgotten authority is believed")
		}
	}
}

// TestRefused: what cannot work, or would live too long, is not kept.
func TestRefused(t *testing.T) {
	m := newMount(t)
	leaf := m.must(logical.ReadOperation, "creds/shop", nil).Data
	for name, config := range map[string]map[string]any{
		"no authority": {"certificate": leaf["certificate"], "key": leaf["key"]},
		"another key":  {"certificate": m.bundle(), "key": leaf["key"]},
		"half":         {"key": leaf["key"]},
	} {
		if _, err := m.do(logical.UpdateOperation, "config", config); err == nil {
			t.Errorf("%s: kept", name)
		}
	}
	for name, role := range map[string]map[string]any{
		"nobody": {}, "two days": {"common_name": "x", "ttl": "48h"}, "no time": {"common_name": "x", "ttl": 0},
	} {
		if _, err := m.do(logical.UpdateOperation, "roles/x", role); err == nil {
			t.Errorf("%s: kept", name)
		}
	}
	if _, err := m.do(logical.ReadOperation, "creds/x", nil); err == nil {
		t.Error("a certificate without a role")
	}
	for key := range m.must(logical.ReadOperation, "config", nil).Data {
		if strings.Contains(key, "key") {
			t.Errorf("reading the configuration tells %s", key)
		}
	}
}
