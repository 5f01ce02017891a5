package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// FieldManager is the owner of all fields that Orrery applies.
const FieldManager = "orrery"

// Client talks to one cluster. It is safe for concurrent use.
type Client struct {
	log     *slog.Logger
	config  *rest.Config
	http    *http.Client
	base    *url.URL
	dynamic dynamic.Interface
	mapper  mapper
	settle  time.Duration // see isSettling
	owner   Ownership
	given   func() (map[string]map[string][]byte, error) // see WithSecrets

	services services
}

// Option changes how [Connect] sets up a client.
type Option func(*Client)

// WithLog sends what client-go and the API server have to say (warnings of the server
// too) to log. Default: nowhere.
func WithLog(log *slog.Logger) Option { return func(c *Client) { c.log = log } }

// WithOwnership has the client share the cluster with others.
func WithOwnership(o Ownership) Option { return func(c *Client) { c.owner = o } }

// WithSecrets has entries of generated Secrets taken from given, by "NAMESPACE/NAME" and key, in
// place of being generated. It is asked when secrets are written or compared.
func WithSecrets(given func() (map[string]map[string][]byte, error)) Option {
	return func(c *Client) { c.given = given }
}

// ConnectWith is [Connect] with what a kubeconfig file would say.
func ConnectWith(kubeconfig []byte, opts ...Option) (*Client, error) {
	config, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	return newClient(config, opts...)
}

// Connect reads the kubeconfig file and prepares a client for its current context. It
// does not call the server. An empty path means what kubectl would use.
func Connect(kubeconfig string, opts ...Option) (*Client, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", kubeconfig, err)
	}
	return newClient(config, opts...)
}

func newClient(config *rest.Config, opts ...Option) (*Client, error) {
	c := &Client{log: slog.New(slog.DiscardHandler), config: rest.CopyConfig(config), settle: settleTimeout}
	for _, o := range opts {
		o(c)
	}
	quiet(c.log)
	// The defaults (5 and 10) are meant for controllers that share a cluster with many;
	// applying a component would take seconds of waiting.
	c.config.QPS, c.config.Burst = 200, 400
	c.config.UserAgent = FieldManager
	c.config.WarningHandlerWithContext = serverWarnings{c.log}
	var err error
	if c.http, err = rest.HTTPClientFor(c.config); err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	if c.base, _, err = rest.DefaultServerUrlFor(c.config); err != nil {
		return nil, fmt.Errorf("kubeconfig: server %q: %w", c.config.Host, err)
	}
	if c.dynamic, err = dynamic.NewForConfigAndClient(c.config, c.http); err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	c.mapper.get = c.RawGet
	return c, nil
}

// Server is the URL of the API.
func (c *Client) Server() string { return c.config.Host }

// Close gives idle connections back. The client stays usable.
func (c *Client) Close() {
	c.services.close()
	// http.Client would stop at the first wrapper of client-go.
	utilnet.CloseIdleConnectionsFor(c.http.Transport)
}

// Get reads one object; namespace is empty for cluster-wide kinds. The error of a
// missing one satisfies apierrors.IsNotFound, that of a kind that the server does not
// know meta.IsNoMatchError.
func (c *Client) Get(ctx context.Context, apiVersion, kind, namespace, name string) (*unstructured.Unstructured, error) {
	r, err := c.resource(ctx, apiVersion, kind, namespace)
	if err != nil {
		return nil, err
	}
	obj, err := r.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", Ref{apiVersion, kind, namespace, name}, err)
	}
	return obj, nil
}

// List reads all objects of a kind; an empty namespace means all namespaces, an empty
// selector all objects. They come sorted by namespace and name, as the server keeps them.
func (c *Client) List(ctx context.Context, apiVersion, kind, namespace, labelSelector string) ([]unstructured.Unstructured, error) {
	return c.list(ctx, apiVersion, kind, namespace, metav1.ListOptions{LabelSelector: labelSelector})
}

func (c *Client) list(ctx context.Context, apiVersion, kind, namespace string, opts metav1.ListOptions) ([]unstructured.Unstructured, error) {
	r, err := c.resource(ctx, apiVersion, kind, namespace)
	if err != nil {
		return nil, err
	}
	l, err := r.List(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("list %s %s: %w", apiVersion, kind, err)
	}
	return l.Items, nil
}

// Create makes obj; the error of an existing one satisfies apierrors.IsAlreadyExists.
func (c *Client) Create(ctx context.Context, obj *unstructured.Unstructured) error {
	r, err := c.resource(ctx, obj.GetAPIVersion(), obj.GetKind(), obj.GetNamespace())
	if err != nil {
		return err
	}
	if _, err := r.Create(ctx, obj, metav1.CreateOptions{FieldManager: FieldManager}); err != nil {
		return fmt.Errorf("create %s: %w", refOf(obj), err)
	}
	return nil
}

// DryRun asks the server what it would say to [Client.Create]: admission is gone through,
// nothing is made.
func (c *Client) DryRun(ctx context.Context, obj *unstructured.Unstructured) error {
	r, err := c.resource(ctx, obj.GetAPIVersion(), obj.GetKind(), obj.GetNamespace())
	if err != nil {
		return err
	}
	if _, err := r.Create(ctx, obj, metav1.CreateOptions{FieldManager: FieldManager, DryRun: []string{metav1.DryRunAll}}); err != nil {
		return fmt.Errorf("try %s: %w", refOf(obj), err)
	}
	return nil
}

// Delete removes one object; what it owns is removed in the background. A negative
// graceSeconds means the object's own grace period. An object that does not exist is
// not an error. Delete does not wait until the object is gone.
func (c *Client) Delete(ctx context.Context, apiVersion, kind, namespace, name string, graceSeconds int64) error {
	r, err := c.resource(ctx, apiVersion, kind, namespace)
	if err != nil {
		return err
	}
	background := metav1.DeletePropagationBackground
	opts := metav1.DeleteOptions{PropagationPolicy: &background}
	if graceSeconds >= 0 {
		opts.GracePeriodSeconds = &graceSeconds
	}
	if err := r.Delete(ctx, name, opts); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s: %w", Ref{apiVersion, kind, namespace, name}, err)
	}
	return nil
}

// RawGet reads a path of the API server, such as /readyz?verbose. An answer other than
// 2xx is an error that carries the status (apierrors.IsNotFound and so on work) and
// the body, which is returned too: /readyz says there what is not ready.
//
// The proxy of a Service over https, /api/v1/namespaces/NAMESPACE/services/https:NAME:PORT/proxy/PATH,
// is answered by a pod whose certificate for NAME.NAMESPACE.svc is verified: by the authority in the
// Secret NAME-tls, else by those of this machine.
func (c *Client) RawGet(ctx context.Context, path string) ([]byte, error) {
	return c.raw(ctx, http.MethodGet, path, anyJSON, "", nil)
}

// RawPost sends a body to a path of the API server. Path and answer are as those of [Client.RawGet].
func (c *Client) RawPost(ctx context.Context, path, contentType string, body []byte) ([]byte, error) {
	return c.raw(ctx, http.MethodPost, path, anyJSON, contentType, body)
}

// anyJSON is the Accept header of a request that takes what there is.
const anyJSON = "application/json, */*"

func (c *Client) raw(ctx context.Context, method, path, accept, contentType string, content []byte) ([]byte, error) {
	ref, err := url.Parse(path)
	if err != nil {
		return nil, fmt.Errorf("path %q: %w", path, err)
	}
	u, by := c.base.JoinPath(ref.Path), c.http
	u.RawQuery = ref.RawQuery
	if s, rest, ok := secureProxy(ref); ok {
		u = rest
		if by, err = c.reach(ctx, s); err != nil {
			body, err := asAnswer(err)
			return body, fmt.Errorf("%s %s: %w", method, path, err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("path %q: %w", path, err)
	}
	req.Header.Set("Accept", accept)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := by.Do(req)
	if err != nil {
		body, err := asAnswer(err)
		return body, fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	if resp.StatusCode/100 != 2 {
		return body, fmt.Errorf("%s %s: %w", method, path, statusError(resp.StatusCode, body))
	}
	return body, nil
}

// statusError makes what client-go would have made of the same answer.
func statusError(code int, body []byte) error {
	var status metav1.Status
	if json.Unmarshal(body, &status) == nil && status.Kind == "Status" {
		return apierrors.FromObject(&status)
	}
	err := apierrors.NewGenericServerResponse(code, "GET", schema.GroupResource{}, "", "", 0, true)
	err.ErrStatus.Message = strings.TrimSpace(fmt.Sprintf("status %d: %s", code, body))
	return err
}

// resource finds the endpoint of a kind; an empty namespace of a namespaced kind means all.
func (c *Client) resource(ctx context.Context, apiVersion, kind, namespace string) (dynamic.ResourceInterface, error) {
	m, err := c.mapper.find(ctx, apiVersion, kind)
	if err != nil {
		return nil, err
	}
	if !m.namespaced {
		return c.dynamic.Resource(m.resource), nil
	}
	return c.dynamic.Resource(m.resource).Namespace(namespace), nil
}

// Ref names one object of a cluster.
type Ref struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
}

// String is "Kind namespace/name", for messages.
func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Kind + " " + r.Name
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}

func (r Ref) kind() schema.GroupVersionKind {
	return schema.FromAPIVersionAndKind(r.APIVersion, r.Kind)
}

func refOf(obj *unstructured.Unstructured) Ref {
	return Ref{obj.GetAPIVersion(), obj.GetKind(), obj.GetNamespace(), obj.GetName()}
}

// id tells objects apart: the version does not matter, one object can be read in many.
type id struct{ group, kind, namespace, name string }

func (r Ref) id() id {
	group, _, versioned := strings.Cut(r.APIVersion, "/")
	if !versioned {
		group = ""
	}
	return id{group, r.Kind, r.Namespace, r.Name}
}

// ignoreCanceled keeps the cause of an ended context, which says more than "context canceled".
func ignoreCanceled(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return context.Cause(ctx)
	}
	return err
}
