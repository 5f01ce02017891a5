package native

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// api is as much of a Kubernetes client as the driver needs.
type api struct {
	base string
	http *http.Client
}

// statusError is an answer that is no success.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string { return fmt.Sprintf("%d: %s", e.code, e.text) }

// newAPI uses the administrator's certificate.
func newAPI(p paths, port int) (*api, error) {
	pair, err := tls.LoadX509KeyPair(p.pki("admin.crt"), p.pki("admin.key"))
	if err != nil {
		return nil, fmt.Errorf("the administrator's certificate: %w", err)
	}
	ca, err := os.ReadFile(p.pki("ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &api{base: fmt.Sprintf("https://127.0.0.1:%d", port), http: &http.Client{
		Timeout: 20 * time.Second,
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS12},
		},
	}}, nil
}

func (a *api) close() { a.http.CloseIdleConnections() }

func (a *api) get(ctx context.Context, path string) ([]byte, error) {
	return a.send(ctx, http.MethodGet, path, "", nil)
}

func (a *api) send(ctx context.Context, method, path, contentType string, body any) ([]byte, error) {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, r)
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 32<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, &statusError{resp.StatusCode, string(bytes.TrimSpace(b[:min(len(b), 300)]))}
	}
	return b, nil
}

type object = map[string]any

// grantKubeletAccess lets the API servers' client into the kubelets (logs, exec, metrics)
// and nothing else. Server-side apply makes it idempotent.
func (a *api) grantKubeletAccess(ctx context.Context) error {
	const name = "orrery:kube-apiserver-to-kubelet"
	path := "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/" + name
	_, err := a.send(ctx, http.MethodPatch, path+"?fieldManager=orrery-driver&force=true", "application/apply-patch+yaml", object{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
		"metadata": object{"name": name, "labels": object{"app.kubernetes.io/managed-by": "orrery"}},
		"roleRef":  object{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:kubelet-api-admin"},
		"subjects": []object{{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": kubeletClient}},
	})
	if err != nil {
		return fmt.Errorf("give the API servers access to the kubelets: %w", err)
	}
	return nil
}

// apiNode is what Ready looks at.
type apiNode struct {
	Metadata struct {
		Name   string            `json:"name"`
		Labels map[string]string `json:"labels"`
	} `json:"metadata"`
	Spec struct {
		PodCIDR string `json:"podCIDR"`
	} `json:"spec"`
	Status struct {
		Conditions []struct {
			Type      string    `json:"type"`
			Status    string    `json:"status"`
			Message   string    `json:"message"`
			Heartbeat time.Time `json:"lastHeartbeatTime"`
		} `json:"conditions"`
	} `json:"status"`
}

func (a *api) nodes(ctx context.Context) (map[string]apiNode, error) {
	b, err := a.get(ctx, "/api/v1/nodes")
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []apiNode `json:"items"`
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, err
	}
	m := map[string]apiNode{}
	for _, n := range list.Items {
		m[n.Metadata.Name] = n
	}
	return m, nil
}

// label sets labels of a node; kubelets may not give themselves a role.
func (a *api) label(ctx context.Context, node string, labels map[string]string) error {
	_, err := a.send(ctx, http.MethodPatch, "/api/v1/nodes/"+node, "application/merge-patch+json",
		object{"metadata": object{"labels": labels}})
	if err != nil {
		return fmt.Errorf("label node %s: %w", node, err)
	}
	return nil
}
