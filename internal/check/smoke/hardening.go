package smoke

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
)

// atRest: what a Secret and a ConfigMap hold is encrypted in etcd.
func atRest(ctx context.Context, env Env) check.Result {
	keeper, ok := env.Driver.(driver.AtRestKeeper)
	if !ok {
		return check.Skip("etcd of this cluster cannot be looked into")
	}
	return inSandbox(ctx, env, "at-rest", func(s *sandbox) (string, error) {
		var keys []string
		for _, kind := range []string{"Secret", "ConfigMap"} {
			name, resource := s.name("probe"), strings.ToLower(kind)+"s"
			if err := s.create(ctx, probeObject(kind, name)); err != nil {
				return "", err
			}
			key, err := keeper.AtRestKey(ctx, resource, namespace, name)
			if err != nil {
				return "", err
			}
			if key == "" {
				return "", fmt.Errorf("a %s is not encrypted in etcd", kind)
			}
			keys = append(keys, kind+" under "+key)
		}
		return "etcd has a " + strings.Join(keys, ", a "), nil
	})
}

func probeObject(kind, name string) map[string]any {
	o := map[string]any{"apiVersion": "v1", "kind": kind, "metadata": map[string]any{"name": name}}
	field := "data"
	if kind == "Secret" {
		field = "stringData"
	}
	o[field] = map[string]any{"probe": auditSentinel}
	return o
}

// auditSentinel is what the audit log must not have.
const auditSentinel = "orrery-probe-content"

// audit: an API server wrote down who made a Secret, and not what is in it.
func audit(ctx context.Context, env Env) check.Result {
	logs, ok := env.Driver.(driver.LogSource)
	auditor, keeps := env.Driver.(driver.Auditor)
	if !ok || !keeps {
		return check.Skip("the API servers of this cluster are others'")
	}
	return inSandbox(ctx, env, "audit", func(s *sandbox) (string, error) {
		name := s.name("probe")
		if err := s.create(ctx, probeObject("Secret", name)); err != nil {
			return "", err
		}
		var found string
		err := until(ctx, settle, func() error {
			var errs []error
			for _, n := range servers(env) {
				w := &lineFinder{want: []byte(name)}
				if err := logs.Logs(ctx, n.Name, auditor.AuditService(), false, w); err != nil {
					errs = append(errs, err)
				} else if w.line != nil {
					found = string(w.line)
					return nil
				}
			}
			return errors.Join(append(errs, fmt.Errorf("no audit log has an entry for Secret %s", name))...)
		})
		if err != nil {
			return "", err
		}
		return auditEntry(found)
	})
}

func auditEntry(line string) (string, error) {
	var e struct {
		Level string `json:"level"`
		Verb  string `json:"verb"`
		User  struct {
			Username string `json:"username"`
		} `json:"user"`
	}
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		return "", fmt.Errorf("an entry of the audit log: %w", err)
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(auditSentinel))
	if e.Level != "Metadata" || strings.Contains(line, auditSentinel) || strings.Contains(line, encoded) {
		return "", fmt.Errorf("the audit log has what is in a Secret: level %s", e.Level)
	}
	return fmt.Sprintf("the audit log has the %s of a Secret by %s, without its content", e.Verb, e.User.Username), nil
}

// lineFinder keeps the first line written to it that has want.
type lineFinder struct{ want, rest, line []byte }

func (f *lineFinder) Write(b []byte) (int, error) {
	f.rest = append(f.rest, b...)
	for f.line == nil {
		line, after, ok := bytes.Cut(f.rest, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		if bytes.Contains(line, f.want) {
			f.line = bytes.Clone(line)
		}
		f.rest = after
	}
	f.rest = nil
	return len(b), nil
}

// kubeletTokens is what kubelets ask for, in seconds: an API server that extends tokens knows those by it.
const kubeletTokens = 3607

// tokenLife: the token that a pod gets is good for an hour.
func tokenLife(ctx context.Context, env Env) check.Result {
	ask := fmt.Sprintf(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":%d}}`, kubeletTokens)
	b, err := env.Client.RawPost(ctx, "/api/v1/namespaces/"+namespace+"/serviceaccounts/default/token", "application/json", []byte(ask))
	if err != nil {
		return check.Wait("ask for a token: %v", err)
	}
	life, err := lifeOfToken(b)
	switch {
	case err != nil:
		return check.Fail(err)
	case life > kubeletTokens*time.Second:
		return check.Fail(fmt.Errorf("a token that a pod gets is good for %s, want an hour", life))
	}
	return check.OK("a token that a pod gets ends after %s", life)
}

func lifeOfToken(answer []byte) (time.Duration, error) {
	var request struct {
		Status struct {
			Token string `json:"token"`
		} `json:"status"`
	}
	if err := json.Unmarshal(answer, &request); err != nil {
		return 0, fmt.Errorf("a TokenRequest: %w", err)
	}
	parts := strings.Split(request.Status.Token, ".")
	if len(parts) != 3 {
		return 0, errors.New("a TokenRequest was answered without a token")
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return 0, fmt.Errorf("a token: %w", err)
	}
	var claims struct {
		Issued int64 `json:"iat"`
		Ends   int64 `json:"exp"`
	}
	if err := json.Unmarshal(b, &claims); err != nil {
		return 0, fmt.Errorf("a token: %w", err)
	}
	if claims.Ends == 0 {
		return 0, errors.New("a token says not when it ends")
	}
	return time.Duration(claims.Ends-claims.Issued) * time.Second, nil
}

// quotaTime is after how long every API server knows of a new quota. Each watches quotas, and where it knows
// of none it believes for 30 s that there is none (k8s.io/apiserver, pkg/admission/plugin/resourcequota, liveTTL).
const quotaTime = time.Minute

// quota: more than apps may have is refused.
func quota(ctx context.Context, env Env) check.Result {
	err := env.Client.DryRun(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": map[string]any{"name": "smoke-quota-" + token(4), "namespace": namespace},
		"spec": map[string]any{
			"automountServiceAccountToken": false,
			"securityContext": map[string]any{
				"runAsNonRoot": true, "runAsUser": int64(65532), "seccompProfile": map[string]any{"type": "RuntimeDefault"},
			},
			"containers": []any{map[string]any{
				"name": "probe", "image": env.Images["probe"],
				"resources":       map[string]any{"requests": map[string]any{"cpu": "1000"}},
				"securityContext": map[string]any{"allowPrivilegeEscalation": false, "capabilities": map[string]any{"drop": []any{"ALL"}}},
			}},
		},
	}})
	switch {
	case err == nil:
		letIn := fmt.Errorf("a pod that asks for 1000 processors was let into namespace %s: its quota is not in force", namespace)
		quotas, err := env.Client.List(ctx, "v1", "ResourceQuota", namespace, "")
		if err == nil && slices.ContainsFunc(quotas, func(q unstructured.Unstructured) bool {
			return time.Since(q.GetCreationTimestamp().Time) < quotaTime
		}) {
			return check.Wait("%v yet", letIn)
		}
		return check.Fail(letIn)
	case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded quota"):
		return check.OK("a pod that asks for 1000 processors was refused in %s", namespace)
	}
	return check.Wait("try a pod beyond the quota: %v", err)
}
