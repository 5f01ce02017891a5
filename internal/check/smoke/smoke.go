package smoke

import (
	"context"
	"io"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/dashboard"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/flow"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/spec"
)

// API is the part of *kube.Client that the checks use.
type API interface {
	Get(ctx context.Context, apiVersion, kind, namespace, name string) (*unstructured.Unstructured, error)
	List(ctx context.Context, apiVersion, kind, namespace, labelSelector string) ([]unstructured.Unstructured, error)
	Create(ctx context.Context, obj *unstructured.Unstructured) error
	DryRun(ctx context.Context, obj *unstructured.Unstructured) error
	Delete(ctx context.Context, apiVersion, kind, namespace, name string, graceSeconds int64) error
	MergePatch(ctx context.Context, ref kube.Ref, change map[string]any) error
	PortForward(ctx context.Context, namespace, pod string, port int) (addr string, stop func(), err error)
	Exec(ctx context.Context, namespace, pod, container string, cmd []string, stdin io.Reader, stdout, stderr io.Writer) error
	RawGet(ctx context.Context, path string) ([]byte, error)
	FollowLogs(ctx context.Context, namespace, pod, container string) (io.ReadCloser, error)
	RawPost(ctx context.Context, path, contentType string, body []byte) ([]byte, error)
}

// Env is what the checks look at.
type Env struct {
	// Client of the cluster; a *kube.Client.
	Client API
	// Spec that the cluster was made from: it says what is expected.
	Spec spec.Environment
	// Nodes that there are, where they are not those of the spec.
	Nodes []spec.Node
	// Images maps image names to full references. "probe" is needed by every check that starts a pod.
	Images map[string]string
	// Observe looks at the nodes as the driver sees them. Nil when there is no driver to ask.
	Observe func(context.Context) (driver.Observation, error)
	// Driver is asked for what it can besides, such as [driver.AtRestKeeper]. Nil when there is none.
	Driver any
	// Flows are what the network saw, oldest first; driver.ErrNoFlows when it keeps no record.
	// Nil when there is no driver to ask. See droppedFlow and forwardedFlow.
	Flows func(context.Context, flow.Query) ([]flow.Flow, error)
	// EnforcesPolicies: the network enforces NetworkPolicies.
	EnforcesPolicies bool
	// Components of this environment. A check whose other end is none of them is skipped.
	Components []string
	// Jobs are what the Jobs of components that bring their own checks are rendered from.
	Jobs []kube.RenderInput
	// Dashboards of the components of this environment.
	Dashboards []dashboard.Dashboard
	// ClusterDomain of DNS names. Default "cluster.local".
	ClusterDomain string
}

// topology is the nodes that are expected.
func (e Env) topology() []spec.Node {
	if e.Nodes != nil {
		return e.Nodes
	}
	return e.Spec.Topology()
}

// SharedChecks are those of ClusterChecks that make sense of a cluster which somebody else made
// and runs.
var SharedChecks = []string{"nodes", "network-policy"}

// ClusterChecks are the names of the checks that belong to no component and always run.
var ClusterChecks = []string{"nodes", "topology", "apiservers", "etcd", "datapath", "network-policy", "at-rest", "audit", "token-life"}

// checkTime bounds every check. Most take seconds; a machine that has much else to do, or whose
// platform has just been started, gets as long as that may honestly take.
const checkTime = 4 * time.Minute

// probe is one check as the table below names it. run returns Running to be asked again.
type probe struct {
	name string
	run  func(context.Context, Env) check.Result
}

// registry is every check that is part of this program: name in component.yaml's smoke list, or in
// [ClusterChecks] → what it proves.
var registry = map[string][]probe{
	"nodes":      {{"nodes", nodes}},
	"topology":   {{"topology", topology}},
	"apiservers": {{"apiservers", apiServers}},
	"etcd":       {{"etcd", etcd}},
	"datapath":   {{"datapath", datapath}},

	"network-policy": {{"network-policy", networkPolicy}},

	"at-rest":    {{"at-rest", atRest}},
	"audit":      {{"audit", audit}},
	"token-life": {{"token-life", tokenLife}},

	"namespaces": {{"namespaces", namespaces}, {"pod-security", podSecurity}, {"quota", quota}},
	"dns":        {{"dns", dns}},
	"storage":    {{"storage", storage}},
	"dashboards": {{"dashboards", dashboards}},
	"logs":       {{"logs", logs}},
	"traces":     {{"traces", traces}},
	"otlp":       {{"otlp", otlp}},
	"metrics":    {{"metrics", metrics}},

	"prometheus": {
		{"prometheus-push", prometheusPush},
		{"prometheus-rules", prometheusRules},
		{"prometheus-targets", prometheusTargets},
	},
	"alerts": {{"alerts", alerts}},

	"image-policy": {{"image-policy", imagePolicy}},
	"nack":         {{"nack", nack}},

	"scylladb":     {{"scylladb", scylladb}},
	"foundationdb": {{"foundationdb", foundationdb}},

	"cert-manager": {{"cert-manager", certificates}},

	"argocd": {{"argocd-applications", applications}, {"argocd-drift", drift}},

	"nats": {
		{"nats-spread", natsSpread},
		{"nats-anonymous", natsAnonymous},
		{"nats-jetstream", natsJetStream},
	},
}

// Checks is the registry bound to an environment, with the checks that components bring
// themselves: name → the conditions of that check for a component. The conditions are independent of each other and may be awaited
// side by side, each as often as wanted.
func Checks(env Env) map[string]func(component string) []check.Condition {
	if env.ClusterDomain == "" {
		env.ClusterDomain = "cluster.local"
	}
	env.Client = patient{env.Client}
	checks := map[string]func(string) []check.Condition{}
	for name, probes := range registry {
		checks[name] = func(component string) []check.Condition {
			var conditions []check.Condition
			for _, p := range probes {
				conditions = append(conditions, check.Condition{
					Component: component,
					Name:      p.name,
					Timeout:   checkTime,
					Interval:  500 * time.Millisecond,
					Probe:     func(ctx context.Context) check.Result { return p.run(ctx, env) },
				})
			}
			return conditions
		}
	}
	for _, in := range env.Jobs {
		(&ownChecks{env: env, in: in}).register(checks)
	}
	return checks
}
