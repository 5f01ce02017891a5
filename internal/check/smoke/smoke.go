package smoke

import (
	"context"
	"io"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/spec"
)

// API is the part of *kube.Client that the checks use.
type API interface {
	Get(ctx context.Context, apiVersion, kind, namespace, name string) (*unstructured.Unstructured, error)
	List(ctx context.Context, apiVersion, kind, namespace, labelSelector string) ([]unstructured.Unstructured, error)
	Create(ctx context.Context, obj *unstructured.Unstructured) error
	Delete(ctx context.Context, apiVersion, kind, namespace, name string, graceSeconds int64) error
	PortForward(ctx context.Context, namespace, pod string, port int) (addr string, stop func(), err error)
	Exec(ctx context.Context, namespace, pod, container string, cmd []string, stdin io.Reader, stdout, stderr io.Writer) error
	RawGet(ctx context.Context, path string) ([]byte, error)
}

// Env is what the checks look at.
type Env struct {
	// Client of the cluster; a *kube.Client.
	Client API
	// Spec that the cluster was made from: it says what is expected.
	Spec spec.Environment
	// Images maps image names to full references. "probe" is needed by every check that starts a pod.
	Images map[string]string
	// Observe looks at the nodes as the driver sees them. Nil when there is no driver to ask.
	Observe func(context.Context) (driver.Observation, error)
}

// ClusterChecks are the names of the checks that belong to no component and always run.
var ClusterChecks = []string{"nodes", "topology", "apiservers", "etcd", "service"}

// Checks is the registry: name → conditions of that check for a component. Names in
// component.yaml's smoke list and [ClusterChecks] are its keys.
func Checks(env Env) map[string]func(component string) []check.Condition {
	return map[string]func(component string) []check.Condition{}
}
