package keeper

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// account is where Kubernetes mounts a pod's service account.
const account = "/var/run/secrets/kubernetes.io/serviceaccount/"

// cluster is the API of the cluster that the keeper runs in, as far as it needs it: one Secret and
// the public keys of service accounts. client-go would be twenty times this program.
type cluster struct {
	base, namespace string
	folder          string
	http            *http.Client
}

func newCluster() (*cluster, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" {
		return nil, errors.New("KUBERNETES_SERVICE_HOST is not set: this verb runs in a pod with a service account")
	}
	ca, err := os.ReadFile(account + "ca.crt")
	if err != nil {
		return nil, fmt.Errorf("the cluster's authority: %w", err)
	}
	ns, err := os.ReadFile(account + "namespace")
	if err != nil {
		return nil, fmt.Errorf("the pod's namespace: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &cluster{
		base: "https://" + net.JoinHostPort(host, port), namespace: strings.TrimSpace(string(ns)), folder: account,
		http: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, IdleConnTimeout: time.Minute,
		}},
	}, nil
}

// do sends a request and decodes the answer into out. What is not there is no error: found is false.
func (c *cluster) do(ctx context.Context, method, path string, in, out any) (found bool, err error) {
	// A short-lived one is written there again and again.
	token, err := os.ReadFile(c.folder + "token")
	if err != nil {
		return false, fmt.Errorf("the service account's token: %w", err)
	}
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return false, err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return false, err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	switch {
	case err != nil:
		return false, fmt.Errorf("%s %s: %w", method, path, err)
	case resp.StatusCode == http.StatusNotFound:
		return false, nil
	case resp.StatusCode >= 300:
		return false, fmt.Errorf("%s %s: %s", method, path, resp.Status)
	case out == nil:
		return true, nil
	}
	return true, json.Unmarshal(text, out)
}

// secret is a Secret of the keeper's namespace, as much of it as is used.
type secret struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   map[string]any    `json:"metadata"`
	Data       map[string][]byte `json:"data"`
}

func (c *cluster) secretPath() string { return "/api/v1/namespaces/" + c.namespace + "/secrets" }

func (c *cluster) readSecret(ctx context.Context, name string) (*secret, error) {
	var s secret
	found, err := c.do(ctx, http.MethodGet, c.secretPath()+"/"+name, nil, &s)
	if err != nil || !found {
		return nil, err
	}
	return &s, nil
}

// writeSecret makes the Secret, or replaces what was read of it.
func (c *cluster) writeSecret(ctx context.Context, name string, old *secret, data map[string][]byte) (*secret, error) {
	method, path := http.MethodPost, c.secretPath()
	s := &secret{APIVersion: "v1", Kind: "Secret", Metadata: map[string]any{
		"name": name, "labels": map[string]string{"app.kubernetes.io/name": "vault"},
	}, Data: data}
	if old != nil {
		method, path, s.Metadata = http.MethodPut, path+"/"+name, old.Metadata
	}
	var now secret
	if _, err := c.do(ctx, method, path, s, &now); err != nil {
		return nil, err
	}
	return &now, nil
}

// keys returns the public keys that the cluster signs service accounts' tokens with, as PEM, and
// the issuer that they name.
func (c *cluster) keys(ctx context.Context) (issuer string, pems []string, err error) {
	var config struct {
		Issuer string `json:"issuer"`
	}
	found, err := c.do(ctx, http.MethodGet, "/.well-known/openid-configuration", nil, &config)
	if err != nil || !found {
		return "", nil, fmt.Errorf("ask the API server for the issuer of service accounts' tokens: %w", err)
	}
	var set struct {
		Keys []jwk `json:"keys"`
	}
	if found, err = c.do(ctx, http.MethodGet, "/openid/v1/jwks", nil, &set); err != nil || !found {
		return "", nil, fmt.Errorf("ask the API server for the keys of service accounts' tokens: %w", err)
	}
	for _, k := range set.Keys {
		text, err := k.pem()
		if err != nil {
			return "", nil, err
		}
		pems = append(pems, text)
	}
	if len(pems) == 0 {
		return "", nil, errors.New("the API server names no key of service accounts' tokens")
	}
	return config.Issuer, pems, nil
}

// jwk is a public key as RFC 7517 writes it.
type jwk struct {
	Kty, Kid, Crv, N, E, X, Y string
}

func (k jwk) pem() (string, error) {
	number := func(s string) *big.Int {
		b, _ := base64.RawURLEncoding.DecodeString(s)
		return new(big.Int).SetBytes(b)
	}
	var pub crypto.PublicKey
	switch {
	case k.Kty == "RSA":
		pub = &rsa.PublicKey{N: number(k.N), E: int(number(k.E).Int64())}
	case k.Kty == "EC" && k.Crv == "P-256":
		pub = &ecdsa.PublicKey{Curve: elliptic.P256(), X: number(k.X), Y: number(k.Y)}
	case k.Kty == "EC" && k.Crv == "P-384":
		pub = &ecdsa.PublicKey{Curve: elliptic.P384(), X: number(k.X), Y: number(k.Y)}
	default:
		return "", fmt.Errorf("key %s of service accounts' tokens is of a kind that is not known here: %s %s", k.Kid, k.Kty, k.Crv)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("key %s of service accounts' tokens: %w", k.Kid, err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
}
