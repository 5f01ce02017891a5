package credential

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// Vault says where Vault is and as whom it is asked.
type Vault struct {
	// Address is its base URL; empty: no Vault is asked.
	Address string
	// CAFile holds the certificates to trust, read for each new connection; empty: the system's.
	CAFile string
	// TokenFile is the service account's token.
	TokenFile string
	// Login is the path of the way to log in, Role the role there.
	Login, Role string
	// Path is what to read.
	Path string
}

// errRefused is an answer: Vault is there and says no.
var errRefused = errors.New("Vault refuses")

const requestTimeout = 5 * time.Second

func (v Vault) client() (*http.Client, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if v.CAFile != "" {
		text, err := os.ReadFile(v.CAFile)
		if err != nil {
			return nil, fmt.Errorf("certificates of Vault: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("certificates of Vault: %s holds none", v.CAFile)
		}
	}
	return &http.Client{
		Timeout:   requestTimeout,
		Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true},
		// A token goes to nobody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// do sends a request and reads its answer into out.
func (v Vault) do(ctx context.Context, method, path, token string, in, out any) error {
	client, err := v.client()
	if err != nil {
		return err
	}
	var body []byte
	if in != nil {
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(v.Address, "/")+"/v1/"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("X-Vault-Request", "true")
	if token != "" {
		request.Header.Set("X-Vault-Token", token)
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	switch {
	case response.StatusCode >= 400 && response.StatusCode < 500 && response.StatusCode != http.StatusTooManyRequests:
		var said struct{ Errors []string }
		_ = json.Unmarshal(text, &said)
		return fmt.Errorf("%w: %s: %s %s", errRefused, path, response.Status, strings.Join(said.Errors, "; "))
	case response.StatusCode >= 300:
		return fmt.Errorf("%s: %s", path, response.Status) // sealed, starting, or not the one that serves
	case out == nil || len(text) == 0:
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

type login struct {
	Auth struct {
		Token   string `json:"client_token"`
		Seconds int    `json:"lease_duration"`
	} `json:"auth"`
}

type leased struct {
	ID      string `json:"lease_id"`
	Seconds int    `json:"lease_duration"`
	Data    struct {
		JWT     string    `json:"jwt"`
		Seed    string    `json:"seed"`
		Expires time.Time `json:"expires_at"`
	} `json:"data"`
}

// lease is a credential that Vault has given.
type lease struct {
	pair
	token, id string
	// from until expires the JWT is good, whatever becomes of Vault.
	from, expires time.Time
	// until is when Vault would take it away; first is how long that was at the beginning.
	until time.Time
	first time.Duration
}

// take logs in and reads a credential.
func (v Vault) take(ctx context.Context) (*lease, error) {
	account, err := os.ReadFile(v.TokenFile)
	if err != nil {
		return nil, fmt.Errorf("token of the service account: %w", err)
	}
	now := time.Now()
	var in login
	err = v.do(ctx, http.MethodPost, v.Login, "", map[string]string{"role": v.Role, "jwt": strings.TrimSpace(string(account))}, &in)
	if err != nil {
		return nil, fmt.Errorf("log in to Vault: %w", err)
	}
	var got leased
	if err := v.do(ctx, http.MethodGet, v.Path, in.Auth.Token, nil, &got); err != nil {
		v.give(context.WithoutCancel(ctx), in.Auth.Token)
		return nil, fmt.Errorf("read a NATS credential from Vault: %w", err)
	}
	if got.Data.JWT == "" || got.Data.Seed == "" || got.ID == "" || got.Data.Expires.Before(now) {
		v.give(context.WithoutCancel(ctx), in.Auth.Token)
		return nil, fmt.Errorf("read a NATS credential from Vault: %s has no jwt, seed, expires_at and lease", v.Path)
	}
	l := &lease{pair: pair{got.Data.JWT, []byte(got.Data.Seed)}, token: in.Auth.Token, id: got.ID, from: now, expires: got.Data.Expires}
	l.held(now, in.Auth.Seconds, got.Seconds)
	l.first = l.until.Sub(now)
	return l, nil
}

// held until the earlier of the ends of login and lease; without an end, until the JWT's.
func (l *lease) held(now time.Time, seconds ...int) {
	l.until = l.expires
	for _, s := range seconds {
		if end := now.Add(time.Duration(s) * time.Second); s > 0 && end.Before(l.until) {
			l.until = end
		}
	}
}

// renew login and lease.
func (v Vault) renew(ctx context.Context, l *lease) error {
	now := time.Now()
	var in login
	if err := v.do(ctx, http.MethodPost, "auth/token/renew-self", l.token, struct{}{}, &in); err != nil {
		return fmt.Errorf("renew the login to Vault: %w", err)
	}
	var got leased
	if err := v.do(ctx, http.MethodPut, "sys/leases/renew", l.token, map[string]string{"lease_id": l.id}, &got); err != nil {
		return fmt.Errorf("renew the lease of the NATS credential: %w", err)
	}
	l.held(now, in.Auth.Seconds, got.Seconds)
	return nil
}

// give back a login, and what hangs on it.
func (v Vault) give(ctx context.Context, token string) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_ = v.do(ctx, http.MethodPost, "auth/token/revoke-self", token, struct{}{}, nil) // it ends by itself otherwise
}
