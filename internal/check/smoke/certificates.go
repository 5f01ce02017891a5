package smoke

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/authority"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/kube"
)

// certificateTime bounds the wait for a certificate: a second, or as long as a starved machine takes.
const certificateTime = 90 * time.Second

// certificates: a request that makes no sense is refused. A certificate is issued, and its chain
// ends at the authority that the others trust. What was lost is issued anew, with another key.
func certificates(ctx context.Context, env Env) check.Result {
	return inSandbox(ctx, env, "cert-manager", func(s *sandbox) (string, error) {
		name := s.name("leaf")
		host := name + "." + namespace + ".svc"
		leaf := func(duration string) map[string]any {
			return map[string]any{
				"apiVersion": "cert-manager.io/v1", "kind": "Certificate",
				"metadata": map[string]any{"name": name, "namespace": namespace},
				"spec": map[string]any{
					"secretName": name, "duration": duration, "dnsNames": []any{host}, "usages": []any{"server auth"},
					"privateKey": map[string]any{"algorithm": "ECDSA", "size": int64(256), "rotationPolicy": "Always"},
					"issuerRef":  map[string]any{"name": "environment", "kind": "ClusterIssuer"},
				},
			}
		}
		err := until(ctx, settle, func() error {
			err := env.Client.DryRun(ctx, &unstructured.Unstructured{Object: leaf("1m")})
			switch {
			case err == nil: // it is let in while the webhook does not answer
				return errors.New("a certificate of a minute is not refused: the webhook of cert-manager does not answer, or does not look")
			case apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err):
				return nil
			}
			return err
		})
		if err != nil {
			return "", err
		}
		// Its Secret outlives the Certificate.
		s.mu.Lock()
		s.made = append(s.made, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": name, "namespace": namespace},
		}})
		s.mu.Unlock()
		start := time.Now()
		if err := s.create(ctx, leaf("1h")); err != nil {
			return "", err
		}
		first, err := issued(ctx, env, name, host, nil)
		if err != nil {
			return "", err
		}
		took := time.Since(start)
		err = until(ctx, certificateTime, func() error {
			c, err := env.Client.Get(ctx, "cert-manager.io/v1", "Certificate", namespace, name)
			if err != nil {
				return err
			}
			return doneWith(c)
		})
		if err != nil {
			return "", err
		}
		if err := env.Client.Delete(ctx, "v1", "Secret", namespace, name, -1); err != nil && !apierrors.IsNotFound(err) {
			return "", fmt.Errorf("delete the certificate's Secret: %w", err)
		}
		if _, err := issued(ctx, env, name, host, first); err != nil {
			return "", fmt.Errorf("after its Secret was lost: %w", err)
		}
		// Gone before the Secret is: otherwise it would be issued once more.
		if err := env.Client.Delete(ctx, "cert-manager.io/v1", "Certificate", namespace, name, -1); err != nil && !apierrors.IsNotFound(err) {
			return "", err
		}
		return fmt.Sprintf("a certificate was issued in %.1f s, ends at the environment's authority, and was issued anew when it was lost; one of a minute was refused",
			took.Seconds()), nil
	})
}

// doneWith is nil when cert-manager has noted that a Certificate is issued. Until then it may write the
// Secret once more, with the same key, whether or not somebody deleted it meanwhile.
func doneWith(certificate *unstructured.Unstructured) error {
	revision, _, _ := unstructured.NestedInt64(certificate.Object, "status", "revision")
	if revision == 0 || kube.StatusCondition(certificate, "Issuing").True() {
		return errors.New("its Secret is there, and cert-manager has not noted that the certificate is issued")
	}
	return nil
}

// issued waits for a certificate whose key is not other, and proves its chain.
func issued(ctx context.Context, env Env, name, host string, other []byte) (key []byte, err error) {
	err = until(ctx, certificateTime, func() error {
		secret, err := env.Client.Get(ctx, "v1", "Secret", namespace, name)
		if err != nil {
			return fmt.Errorf("it is not issued: %w", err)
		}
		certificate, err := secretValue(secret, "tls.crt")
		if err != nil {
			return err
		}
		if key, err = secretValue(secret, "tls.key"); err != nil {
			return err
		}
		if bytes.Equal(key, other) {
			return errors.New("it has the same key as before")
		}
		trusted, err := env.Client.Get(ctx, "v1", "Secret", "cert-manager", "environment-authority")
		if err != nil {
			return fmt.Errorf("read the environment's authority: %w", err)
		}
		ca, err := secretValue(trusted, "ca.crt")
		if err != nil {
			return err
		}
		asked := authority.Request{DNSNames: []string{host}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
		if err := (authority.Pair{Certificate: certificate}).Sound(ca, asked, 0, time.Now()); err != nil {
			return check.Final(fmt.Errorf("it is issued and will not do: %w", err))
		}
		return nil
	})
	return key, err
}
