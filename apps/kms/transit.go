package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"k8s.io/kms/pkg/service"
)

const (
	// vaultTime bounds a request to Vault; the API server gives up after three seconds.
	vaultTime = 2500 * time.Millisecond
	maxAnswer = 1 << 20 // bytes
)

// transit is a key of Vault's transit engine.
type transit struct {
	http      *http.Client
	url       *url.URL
	mount     string
	key       string
	tokenFile string
}

var _ service.Service = (*transit)(nil)

// connect names the Vault; it asks it nothing.
func (t *transit) connect(address, caFile string) error {
	u, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("-vault: %w", err)
	}
	if u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("-vault: %q is no URL with https, and keys of a cluster go through it", address)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		text, err := os.ReadFile(caFile) //nolint:gosec // the person names it
		if err != nil {
			return fmt.Errorf("-ca: %w", err)
		}
		if config.RootCAs = x509.NewCertPool(); !config.RootCAs.AppendCertsFromPEM(text) {
			return fmt.Errorf("-ca: %s has no certificate", caFile)
		}
	}
	t.url = u
	t.http = &http.Client{
		Timeout: vaultTime, Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true},
		// The token goes to no other address. A standby asks the node that leads by itself.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return nil
}

// Status is well when the key encrypts and decrypts. Its key ID changes when the key is rotated, which
// makes the API server take the new version.
func (t *transit) Status(ctx context.Context) (*service.StatusResponse, error) {
	k, err := t.read(ctx)
	if err != nil {
		return nil, err
	}
	probe := []byte("is it the same?")
	sealed, err := t.Encrypt(ctx, "", probe)
	if err != nil {
		return nil, err
	}
	opened, err := t.Decrypt(ctx, "", &service.DecryptRequest{Ciphertext: sealed.Ciphertext})
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(opened, probe) {
		return nil, fmt.Errorf("key %s of Vault decrypts to something else than was encrypted", t.key)
	}
	return &service.StatusResponse{Version: "v2", Healthz: "ok", KeyID: k.id(t, k.Latest)}, nil
}

// Encrypt seals what the API server derives its keys from.
func (t *transit) Encrypt(ctx context.Context, _ string, plain []byte) (*service.EncryptResponse, error) {
	var sealed struct {
		Ciphertext string `json:"ciphertext"`
		Version    int    `json:"key_version"`
	}
	if err := t.ask(ctx, http.MethodPost, "encrypt", map[string][]byte{"plaintext": plain}, &sealed); err != nil {
		return nil, err
	}
	k, err := t.read(ctx)
	if err != nil {
		return nil, err
	}
	if sealed.Ciphertext == "" || k.Created[fmt.Sprint(sealed.Version)] == 0 {
		return nil, fmt.Errorf("Vault has encrypted with version %d of key %s, which it does not list", sealed.Version, t.key)
	}
	return &service.EncryptResponse{Ciphertext: []byte(sealed.Ciphertext), KeyID: k.id(t, sealed.Version)}, nil
}

// Decrypt opens what any version of the key has sealed.
func (t *transit) Decrypt(ctx context.Context, _ string, r *service.DecryptRequest) ([]byte, error) {
	var opened struct {
		Plaintext []byte `json:"plaintext"`
	}
	if err := t.ask(ctx, http.MethodPost, "decrypt", map[string]string{"ciphertext": string(r.Ciphertext)}, &opened); err != nil {
		return nil, err
	}
	return opened.Plaintext, nil
}

// key is what Vault says of one with versions.
type key struct {
	Latest     int              `json:"latest_version"`
	Created    map[string]int64 `json:"keys"` // Unix time by version
	Exportable bool             `json:"exportable"`
}

// id of a version: also another one when a key of the same name was made anew.
func (k key) id(t *transit, version int) string {
	return fmt.Sprintf("%s/%s/v%d/%d", t.mount, t.key, version, k.Created[fmt.Sprint(version)])
}

func (t *transit) read(ctx context.Context) (key, error) {
	var k key
	if err := t.ask(ctx, http.MethodGet, "keys", nil, &k); err != nil {
		return k, err
	}
	if k.Exportable {
		return k, fmt.Errorf("key %s may leave Vault (exportable): make one that may not", t.key)
	}
	if k.Created[fmt.Sprint(k.Latest)] == 0 {
		return k, fmt.Errorf("key %s of Vault has no version that can be used: is it a symmetric one (aes256-gcm96)?", t.key)
	}
	return k, nil
}

// ask sends a request about the key, and reads the answer's data into into.
func (t *transit) ask(ctx context.Context, method, verb string, body, into any) error {
	what := fmt.Sprintf("ask Vault for %s/%s/%s", t.mount, verb, t.key)
	token, err := os.ReadFile(t.tokenFile)
	if err != nil {
		return fmt.Errorf("%s: token: %w", what, err)
	}
	var content io.Reader = http.NoBody
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, t.url.JoinPath("v1", t.mount, verb, t.key).String(), content)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	r.Header.Set("X-Vault-Token", strings.TrimSpace(string(token)))
	r.Header.Set("X-Vault-Request", "true")
	resp, err := t.http.Do(r)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer resp.Body.Close()
	var answer struct {
		Data   json.RawMessage `json:"data"`
		Errors []string        `json:"errors"`
	}
	err = json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&answer)
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", what, resp.Status, cmp.Or(strings.TrimSpace(strings.Join(answer.Errors, "; ")), hint(resp.StatusCode)))
	}
	if err == nil {
		err = json.Unmarshal(answer.Data, into)
	}
	if err != nil {
		return fmt.Errorf("%s: its answer: %w", what, err)
	}
	return nil
}

func hint(status int) string {
	return map[int]string{
		http.StatusNotFound:           "there is no such key or mount",
		http.StatusForbidden:          "the token has ended, or its policy does not allow it",
		http.StatusServiceUnavailable: "it is sealed",
	}[status]
}
