package keeper

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/vault/api"
)

// What the check may use; infra/k8s/base/vault/vault.yaml lets it.
const (
	checkSecret  = "kv/data/check/"
	checkKey     = "check"
	checkRole    = "check"
	checkToken   = "check"
	forbidden    = "kv/data/somebody-elses"
	leases       = 50
	leaseSeconds = 3
)

// result is the line that verify reads.
type result struct {
	Name    string  `json:"name"`
	State   string  `json:"state"`
	Detail  string  `json:"detail"`
	Seconds float64 `json:"seconds"`
}

type checkFunc = func(context.Context, *api.Client) (string, error)

type check struct {
	name string
	run  checkFunc
}

// Check writes to Vault and reads it, as a pod would, and prints a line for each check.
func (k *Keeper) Check(ctx context.Context, out io.Writer) error {
	return report(out, []check{{"vault-secrets", checkSecrets}, {"vault-leases", checkLeases}, {"vault-leases-nats", k.checkNATS}},
		func(run checkFunc) (string, error) { return k.attempt(ctx, run) })
}

// report prints a line for each check.
func report(out io.Writer, checks []check, attempt func(checkFunc) (string, error)) error {
	enc := json.NewEncoder(out)
	failed := 0
	for _, c := range checks {
		start := time.Now()
		detail, err := attempt(c.run)
		r := result{Name: c.name, State: "succeeded", Detail: detail, Seconds: time.Since(start).Seconds()}
		if _, skipped := errors.AsType[skippedError](err); skipped {
			r.State, r.Detail = "skipped", err.Error()
		} else if err != nil {
			r.State, r.Detail = "failed", err.Error()
			failed++
		}
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d checks failed", failed, len(checks))
	}
	return nil
}

// attempt tries until it succeeds or ctx ends: Vault may only just be starting. What was found to be
// wrong, and not only away, is not tried again.
func (k *Keeper) attempt(ctx context.Context, run func(context.Context, *api.Client) (string, error)) (string, error) {
	for {
		c, err := k.login(ctx)
		if err == nil {
			var detail string
			if detail, err = run(ctx, c); err == nil {
				revoke(ctx, c)
				return detail, nil
			}
			revoke(ctx, c)
			_, wrong := errors.AsType[wrongError](err)
			if _, skipped := errors.AsType[skippedError](err); wrong || skipped {
				return "", err
			}
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("not before its deadline: %w", err)
		case <-time.After(retry):
		}
	}
}

// wrongError is an answer that no waiting mends.
type wrongError struct{ what string }

func (e wrongError) Error() string { return e.what }

func wrong(format string, args ...any) error { return wrongError{fmt.Sprintf(format, args...)} }

func checkSecrets(ctx context.Context, c *api.Client) (string, error) {
	random := make([]byte, 16)
	rand.Read(random) // never fails
	value := hex.EncodeToString(random)
	path := checkSecret + value[:8]
	if _, err := c.Logical().WriteWithContext(ctx, path, map[string]any{"data": map[string]any{"value": value}}); err != nil {
		return "", fmt.Errorf("write a secret: %w", err)
	}
	s, err := c.Logical().ReadWithContext(ctx, path)
	if err != nil || s == nil {
		return "", fmt.Errorf("read the secret that was written: %w", err)
	}
	if data, _ := s.Data["data"].(map[string]any); data["value"] != value {
		return "", wrong("the secret that was read is not the one that was written")
	}
	if _, err := c.Logical().DeleteWithContext(ctx, "kv/metadata/check/"+value[:8]); err != nil {
		return "", fmt.Errorf("delete the secret: %w", err)
	}
	if s, err := c.Logical().ReadWithContext(ctx, path); err != nil || s != nil {
		return "", wrong("a deleted secret can be read still (%v)", err)
	}

	plain := base64.StdEncoding.EncodeToString(random)
	s, err = c.Logical().WriteWithContext(ctx, "transit/encrypt/"+checkKey, map[string]any{"plaintext": plain})
	if err != nil {
		return "", fmt.Errorf("encrypt: %w", err)
	}
	s, err = c.Logical().WriteWithContext(ctx, "transit/decrypt/"+checkKey, map[string]any{"ciphertext": s.Data["ciphertext"]})
	if err != nil {
		return "", fmt.Errorf("decrypt: %w", err)
	}
	if s.Data["plaintext"] != plain {
		return "", wrong("what was decrypted is not what was encrypted")
	}

	if _, _, _, err := issue(ctx, c); err != nil {
		return "", err
	}
	if _, err := c.Logical().ReadWithContext(ctx, forbidden); !isStatus(err, http.StatusForbidden) {
		return "", wrong("a secret of somebody else's was not refused: %v", err)
	}
	return "logged in as a service account: a secret written, read and deleted, another's refused; encrypted and decrypted; " +
		"a certificate that its authority vouches for", nil
}

// issue takes a certificate with a lease, and holds it against the authority.
func issue(ctx context.Context, c *api.Client) (lease, serial string, took time.Duration, err error) {
	start := time.Now()
	s, err := c.Logical().WriteWithContext(ctx, "pki/issue/"+checkRole, map[string]any{"common_name": "check.invalid", "ttl": "60s"})
	took = time.Since(start)
	if err != nil {
		return "", "", 0, fmt.Errorf("issue a certificate: %w", err)
	}
	leaf, err := parse(s.Data["certificate"])
	if err != nil {
		return "", "", 0, err
	}
	root, err := parse(s.Data["issuing_ca"])
	if err != nil {
		return "", "", 0, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "check.invalid"}); err != nil {
		return "", "", 0, wrong("the authority does not vouch for its certificate: %v", err)
	}
	serial, _ = s.Data["serial_number"].(string)
	return s.LeaseID, serial, took, nil
}

func parse(text any) (*x509.Certificate, error) {
	t, _ := text.(string)
	block, _ := pem.Decode([]byte(t))
	if block == nil {
		return nil, wrong("no certificate in the answer")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, wrong("the certificate in the answer: %v", err)
	}
	return cert, nil
}

func checkLeases(ctx context.Context, c *api.Client) (string, error) {
	p95, err := checkRevocation(ctx, c)
	if err != nil {
		return "", err
	}
	ended, err := checkEnd(ctx, c)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d leases, p95 %.1f ms; one used, renewed and refused %.1f s after its end; one revoked, and on the list of those",
		leases, float64(p95.Microseconds())/1000, ended.Seconds()), nil
}

// checkRevocation takes leases and revokes one: its certificate is on the revocation list then.
func checkRevocation(ctx context.Context, c *api.Client) (p95 time.Duration, err error) {
	var times []time.Duration
	var last, serial string
	for range leases {
		lease, number, took, err := issue(ctx, c)
		if err != nil {
			return 0, err
		}
		if lease == "" {
			return 0, wrong("a certificate was issued without a lease")
		}
		times, last, serial = append(times, took), lease, number
	}
	slices.Sort(times)
	p95 = times[len(times)*95/100]
	if revoked, err := isRevoked(ctx, c, serial); err != nil || revoked {
		return 0, errors.Join(err, wrong("a new certificate is revoked: %t", revoked))
	}
	if _, err := c.Logical().WriteWithContext(ctx, "sys/leases/revoke", map[string]any{"lease_id": last, "sync": true}); err != nil {
		return 0, fmt.Errorf("revoke a lease: %w", err)
	}
	revoked, err := isRevoked(ctx, c, serial)
	if err == nil && !revoked {
		err = wrong("the certificate of a revoked lease is not revoked")
	}
	return p95, err
}

// isRevoked reads the revocation list of the authority, as who verifies a certificate does.
func isRevoked(ctx context.Context, c *api.Client, serial string) (bool, error) {
	resp, err := c.Logical().ReadRawWithContext(ctx, "pki/crl/pem")
	if err != nil {
		return false, fmt.Errorf("read the revocation list: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return false, fmt.Errorf("read the revocation list: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return false, wrong("no revocation list in the answer")
	}
	list, err := x509.ParseRevocationList(block.Bytes)
	if err != nil {
		return false, wrong("the revocation list: %v", err)
	}
	return slices.ContainsFunc(list.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool {
		return colons(e.SerialNumber.Bytes()) == serial
	}), nil
}

// colons writes a serial number as Vault does.
func colons(b []byte) string {
	out := make([]byte, 0, 3*len(b))
	for i, v := range b {
		if i > 0 {
			out = append(out, ':')
		}
		out = hex.AppendEncode(out, []byte{v})
	}
	return string(out)
}

// checkEnd takes a token of a few seconds, uses it, renews it, and waits until it is refused.
func checkEnd(ctx context.Context, c *api.Client) (after time.Duration, err error) {
	s, err := c.Auth().Token().CreateWithRoleWithContext(ctx, &api.TokenCreateRequest{TTL: fmt.Sprintf("%ds", leaseSeconds)}, checkToken)
	if err != nil {
		return 0, fmt.Errorf("take a token with a lease: %w", err)
	}
	short, err := c.Clone()
	if err != nil {
		return 0, err
	}
	short.SetToken(s.Auth.ClientToken)
	use := func() error {
		_, err := short.Auth().Token().LookupSelfWithContext(ctx)
		return err
	}
	if err := use(); err != nil {
		return 0, fmt.Errorf("use a token with a lease: %w", err)
	}
	first := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	// Renewed until it is past its first end.
	for time.Since(first) < (leaseSeconds+1)*time.Second {
		if _, err := short.Auth().Token().RenewSelfWithContext(ctx, leaseSeconds); err != nil {
			return 0, fmt.Errorf("renew a lease of %d s after %.1f s: %w", leaseSeconds, time.Since(first).Seconds(), err)
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
	}
	if err := use(); err != nil {
		return 0, wrong("a renewed lease was refused: %v", err)
	}
	renewed := time.Now()
	for {
		if err := use(); denied(err) {
			return max(0, time.Since(renewed)-leaseSeconds*time.Second), nil
		}
		if time.Since(renewed) > 10*leaseSeconds*time.Second {
			return 0, wrong("a token is accepted %s after its lease ended", time.Since(renewed).Round(time.Second))
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
	}
}
