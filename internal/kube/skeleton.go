package kube

import (
	"context"
	"io"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/check"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Facts of the environment that manifests may use.
type Facts struct {
	Environment   string
	ClusterDomain string
	ClusterDNS    string
	PodCIDR       string
	ServiceCIDR   string
	Durability    string
	Servers       int
	Nodes         int
	Zones         int
}

// RenderInput is all that rendering depends on.
type RenderInput struct {
	Component catalog.Component
	Overlay   catalog.Overlay
	Facts     Facts
	// Images maps the name of an image to its full reference. When nil, NAME:VERSION
	// of the component's own images is put.
	Images map[string]string
}

// Render makes the objects of a component.
func Render(in RenderInput) ([]*unstructured.Unstructured, error) { return nil, errTodo }

// Hash identifies a rendered set.
func Hash(objs []*unstructured.Unstructured) string { return "" }

// Ref names one object of a cluster.
type Ref struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
}

// Inventory is what a component owns in the cluster.
type Inventory struct {
	// Hash of the rendered set that was applied completely; empty while an apply is under way.
	Hash     string   `json:"hash"`
	Objects  []Ref    `json:"objects"`
	Deferred []string `json:"deferred,omitempty"`
}

// Applied counts what an apply did.
type Applied struct {
	Created   int `json:"created"`
	Changed   int `json:"changed"`
	Unchanged int `json:"unchanged"`
	Pruned    int `json:"pruned"`
	// Deferred lists optional objects whose kind the cluster does not know yet.
	Deferred []string `json:"deferred,omitempty"`
}

// Change is what applying would do to one object.
type Change struct {
	Object Ref    `json:"object"`
	Action string `json:"action"` // create | change | prune
	Diff   string `json:"diff"`   // unified; data of Secrets is redacted
}

// Apply makes the cluster hold objs, and nothing else, for the component.
func (c *Client) Apply(ctx context.Context, component string, objs []*unstructured.Unstructured) (Applied, error) {
	return Applied{}, errTodo
}

// Diff tells what Apply would change.
func (c *Client) Diff(ctx context.Context, component string, objs []*unstructured.Unstructured) ([]Change, error) {
	return nil, errTodo
}

// Remove deletes all that the component owns and waits until it is gone.
func (c *Client) Remove(ctx context.Context, component string) error { return errTodo }

// Inventories reads what every component owns.
func (c *Client) Inventories(ctx context.Context) (map[string]Inventory, error) { return nil, errTodo }

// EnsureSecrets makes the generated secrets of a component that do not exist yet.
func (c *Client) EnsureSecrets(ctx context.Context, component catalog.Component) error {
	return errTodo
}

// Ready holds when every object of the set is.
func (c *Client) Ready(component string, objs []*unstructured.Unstructured) check.Condition {
	return check.Condition{Component: component, Name: "ready", Probe: func(context.Context) check.Result {
		return check.Fail(errTodo)
	}}
}

// PortForward listens on a free port of 127.0.0.1 and forwards it to a pod's port.
func (c *Client) PortForward(ctx context.Context, namespace, pod string, port int) (addr string, stop func(), err error) {
	return "", nil, errTodo
}

// Exec runs a command in a container.
func (c *Client) Exec(ctx context.Context, namespace, pod, container string, cmd []string, stdin io.Reader, stdout, stderr io.Writer) error {
	return errTodo
}

// Logs reads the last lines of a container.
func (c *Client) Logs(ctx context.Context, namespace, pod, container string, tail int64) (string, error) {
	return "", errTodo
}
