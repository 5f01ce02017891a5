package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/kube"
)

// vaultPlatform is what Vault, and who takes credentials of it, need.
const vaultPlatform = "servers: 1\nagents: 0\nnetwork: {plugin: ptp}\n" +
	"components: [namespaces, coredns, local-path, nats, pulse, vault, external-secrets]\n"

// TestVault is a day of a Vault: pulse works on credentials that end and are followed by others, through a
// Vault that is sealed, lost and restored.
func TestVault(t *testing.T) {
	if os.Getenv("ORRERY_E2E_FULL") != "1" {
		t.Skip("ORRERY_E2E_FULL is not 1")
	}
	e := newEnvironment(t, "vault", vaultPlatform)
	e.up(t)
	client, err := kube.Connect(e.state("kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	v := &vaulted{e, client}
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"leased", v.leased}, {"rotation", v.rotation}, {"sealed", v.sealed}, {"lost-and-restored", v.lostAndRestored},
	} {
		t.Run(part.name, func(t *testing.T) {
			t.Cleanup(func() { e.keepSupport(t) })
			part.run(t)
			v.nothingLost(t)
		})
	}
}

type vaulted struct {
	*environment
	client *kube.Client
}

// metrics of all pods of pulse: the lines of a name, by pod.
func (v *vaulted) metrics(ctx context.Context, name string) (map[string][]string, error) {
	pods, err := v.client.List(ctx, "v1", "Pod", "apps", "app.kubernetes.io/name=pulse")
	if err != nil {
		return nil, err
	}
	found := map[string][]string{}
	for _, p := range pods {
		if p.GetDeletionTimestamp() != nil {
			continue
		}
		text, err := v.client.RawGet(ctx, "/api/v1/namespaces/apps/pods/"+p.GetName()+":8081/proxy/metrics")
		if err != nil {
			return nil, fmt.Errorf("metrics of %s: %w", p.GetName(), err)
		}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, name) {
				found[p.GetName()] = append(found[p.GetName()], strings.TrimSpace(line))
			}
		}
	}
	if len(found) == 0 {
		return nil, errors.New("no pod of pulse has " + name)
	}
	return found, nil
}

// onLeases is nil when every pod of pulse has a credential of Vault's.
func (v *vaulted) onLeases(ctx context.Context) error {
	all, err := v.metrics(ctx, "pulse_credential_source")
	if err != nil {
		return err
	}
	for pod, lines := range all {
		if s := strings.Join(lines, " "); !strings.Contains(s, `source="vault"`) {
			return fmt.Errorf("%s: %s", pod, s)
		}
	}
	return nil
}

func (v *vaulted) leased(t *testing.T) {
	eventually(t, "pulse has credentials of Vault's", restored, v.onLeases)
	for _, c := range v.verify(t, "vault", "external-secrets").Checks {
		t.Logf("%s %s: %s", c.Name, c.State, c.Detail)
		if c.State != "succeeded" {
			t.Errorf("%s %s: %s; nothing is to be skipped here", c.Name, c.State, c.Detail)
		}
	}
}

// nothingLost: what pulse acknowledged is accounted for, and what it acknowledges now too.
func (v *vaulted) nothingLost(t *testing.T) {
	t.Helper()
	v.verify(t, "pulse")
	lost, err := v.metrics(t.Context(), "pulse_lost")
	if err != nil {
		t.Fatal(err)
	}
	for pod, lines := range lost {
		for _, line := range lines {
			if !strings.HasSuffix(line, " 0") {
				t.Errorf("%s: %s, want none lost", pod, line)
			}
		}
	}
}

// rotation has credentials of pulse live for a minute, so that each pod has several of them while events flow.
func (v *vaulted) rotation(t *testing.T) {
	v.write(t, "keeper", "vault-keeper", "nats/roles/pulse", map[string]any{"ttl": "20s", "max_ttl": "60s"})
	v.run(t, "kubectl", "-n", "apps", "rollout", "restart", "deployment/pulse-ingest", "deployment/pulse-worker")
	for _, d := range []string{"pulse-ingest", "pulse-worker"} {
		v.run(t, "kubectl", "-n", "apps", "rollout", "status", "deployment/"+d, "--timeout=180s")
	}
	eventually(t, "each pod of pulse has had a third credential", slowly, func(ctx context.Context) error {
		pods, err := v.client.List(ctx, "v1", "Pod", "apps", "app.kubernetes.io/name=pulse")
		if err != nil {
			return err
		}
		for _, p := range pods {
			if p.GetDeletionTimestamp() != nil {
				continue
			}
			log, err := v.client.RawGet(ctx, "/api/v1/namespaces/apps/pods/"+p.GetName()+"/log")
			if err != nil {
				return err
			}
			if n := strings.Count(string(log), "a NATS credential from Vault"); n < 3 {
				return fmt.Errorf("%s has had %d", p.GetName(), n)
			}
		}
		return nil
	})
}

// sealed starts Vault with another key than its data wants. Pulse goes on.
func (v *vaulted) sealed(t *testing.T) {
	v.write(t, "keeper", "vault-keeper", "nats/roles/pulse", map[string]any{"ttl": "600s", "max_ttl": "21600s"})
	key := strings.TrimSpace(v.run(t, "kubectl", "-n", "platform", "get", "secret", "vault-seal", "-o", "jsonpath={.data.key}"))
	put := func(key string) {
		v.run(t, "kubectl", "-n", "platform", "patch", "secret", "vault-seal", "--type=merge", "-p", `{"data": {"key": "`+key+`"}}`)
		v.run(t, "kubectl", "-n", "platform", "delete", "pod", "vault-0")
	}
	put(base64.StdEncoding.EncodeToString([]byte(strings.Repeat("another key ", 4))))
	eventually(t, "Vault says whose key it wants", slowly, func(ctx context.Context) error {
		return v.says(ctx, "vault-0", "restore the Secret vault-seal that belongs to this data")
	})
	v.nothingLost(t)
	put(key)
	v.opened(t)
}

// opened waits until Vault gives what it gave before.
func (v *vaulted) opened(t *testing.T) {
	t.Helper()
	v.run(t, "kubectl", "-n", "platform", "rollout", "status", "statefulset/vault", "--timeout=180s")
	v.run(t, "kubectl", "-n", "platform", "wait", "--for=condition=Available", "deployment/vault-keeper", "--timeout=180s")
	v.verify(t, "vault", "external-secrets")
	eventually(t, "pulse has credentials of Vault's", slowly, v.onLeases)
}

func (v *vaulted) says(ctx context.Context, pod, what string) error {
	log, err := v.client.RawGet(ctx, "/api/v1/namespaces/platform/pods/"+pod+"/log")
	if err == nil && !strings.Contains(string(log), what) {
		err = fmt.Errorf("%s does not say %q: %s", pod, what, last(string(log), 500))
	}
	return err
}

// lostAndRestored takes Vault's claim away. Nothing is made in its place until a snapshot is restored.
func (v *vaulted) lostAndRestored(t *testing.T) {
	keeper := func(stdin string, args ...string) string {
		r := v.invoke(t.Context(), strings.NewReader(stdin), append([]string{
			"kubectl", "-n", "platform", "exec", "-i", "deploy/vault-keeper", "--", "/keeper", "-vault=https://vault.platform.svc:8200",
			"-nodes=https://vault-0.vault-headless.platform.svc:8200", "-ca=/etc/vault-tls/ca.crt"}, args...)...)
		if r.code != 0 {
			t.Fatal(r)
		}
		return r.stdout
	}
	snapshot := keeper("", "snapshot")
	v.run(t, "kubectl", "-n", "platform", "scale", "statefulset/vault", "--replicas=0")
	v.run(t, "kubectl", "-n", "platform", "delete", "pvc", "data-vault-0")
	v.run(t, "kubectl", "-n", "platform", "scale", "statefulset/vault", "--replicas=1")
	eventually(t, "the keeper says that Vault's data is lost", slowly, func(ctx context.Context) error {
		pods, err := v.client.List(ctx, "v1", "Pod", "platform", "app.kubernetes.io/name=vault-keeper")
		if err != nil || len(pods) == 0 {
			return fmt.Errorf("no keeper: %w", err)
		}
		return v.says(ctx, pods[0].GetName(), "Vault has no data, and had some before")
	})
	v.nothingLost(t)
	keeper(snapshot, "restore")
	v.opened(t)
}

// write sends Vault a request as a service account with its role.
func (v *vaulted) write(t *testing.T, role, account, path string, body map[string]any) {
	t.Helper()
	jwt := strings.TrimSpace(v.run(t, "kubectl", "-n", "platform", "create", "token", account, "--audience=vault"))
	addr, stop, err := v.client.PortForward(t.Context(), "platform", "vault-0", 8200)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	secret, err := v.client.Get(t.Context(), "v1", "Secret", "platform", "vault-tls")
	if err != nil {
		t.Fatal(err)
	}
	ca, err := secretValue(secret, "ca.crt")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "vault.platform.svc", MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	post := func(path, token string, body any) []byte {
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+addr+"/v1/"+path, bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Vault-Token", token)
		response, err := (&http.Client{Transport: transport, Timeout: 20 * time.Second}).Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		answer, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode >= 300 {
			t.Fatalf("%s: %s %v: %s", path, response.Status, err, answer)
		}
		return answer
	}
	in := decode[struct {
		Auth struct {
			Token string `json:"client_token"`
		}
	}](t, string(post("auth/kubernetes/login", "", map[string]string{"role": role, "jwt": jwt})))
	post(path, in.Auth.Token, body)
}
