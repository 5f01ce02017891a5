package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// auditTellsWho: who removed a policy's binding is found in Loki.
func auditTellsWho(t *testing.T, e *environment) {
	name := fmt.Sprintf("e2e-audit-%d", time.Now().UnixNano())
	e.run(t, "kubectl", "create", "clusterrolebinding", name, "--clusterrole=view", "--user=nobody")
	e.run(t, "kubectl", "delete", "clusterrolebinding", name)
	query := fmt.Sprintf(`{service_name="kube-apiserver-audit"} |= %q |= "\"verb\":\"delete\""`, name)
	eventually(t, "who removed the binding, in Loki", time.Minute, func(context.Context) error {
		if out := e.run(t, "logs", "--query", query, "--since", "5m"); !strings.Contains(out, name) || !strings.Contains(out, `"username":"orrery-admin"`) {
			return fmt.Errorf("who removed %s is not found: %s", name, out)
		}
		return nil
	})
}

// keysAtRestAreExchanged: the cluster's Secrets are read and written before, during and after.
func keysAtRestAreExchanged(t *testing.T, e *environment) {
	e.run(t, "kubectl", "create", "secret", "generic", "e2e-at-rest", "-n", "apps", "--from-literal=a=one")
	defer e.run(t, "kubectl", "delete", "secret", "e2e-at-rest", "-n", "apps")
	out := e.run(t, "secrets", "rotate-at-rest")
	if !strings.Contains(out, "took the place of") {
		t.Error(out)
	}
	if got := e.run(t, "kubectl", "get", "secret", "e2e-at-rest", "-n", "apps", "-o", "jsonpath={.data.a}"); got != "b25l" {
		t.Errorf("the Secret is %q", got)
	}
	e.run(t, "verify", "cluster")
}
