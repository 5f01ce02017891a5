package smoke

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
)

const healthy = "[+]ping ok\n[+]etcd ok\n[+]etcd-readiness ok\nreadyz check passed"

func refuse(o *unstructured.Unstructured) error {
	return apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, o.GetName(), errors.New(`violates PodSecurity "restricted:latest": privileged`))
}

func usageOf(cpu, memory string) string {
	item := `{"metadata":{"name":%q},"usage":{"cpu":%q,"memory":%q}}`
	var items []string
	for _, n := range []string{"server1", "server2", "server3", "agent1", "agent2"} {
		items = append(items, fmt.Sprintf(item, n, cpu, memory))
	}
	return `{"items":[` + strings.Join(items, ",") + `]}`
}

const podUsage = `{"items":[{"metadata":{"name":"p","namespace":"kube-system"},"containers":[{"usage":{"cpu":"1m","memory":"9Mi"}}]}]}`

// TestChecks runs every check that needs no NATS on a fake cluster: well, and broken in
// the ways that it is there to find.
func TestChecks(t *testing.T) {
	type breakage func(*fakeAPI, *Env)
	// answers are what probe says in a cluster where all is well.
	answers := func(f *fakeAPI) func(pod, command string) (string, error) {
		return func(pod, command string) (string, error) {
			verb, argument, _ := strings.Cut(command, " ")
			switch {
			case verb == "get" && strings.Contains(argument, "readyz"):
				return healthy, nil
			case verb == "lookup" && strings.HasPrefix(argument, "kubernetes.default"):
				return "10.96.0.1", nil
			case verb == "lookup" && strings.HasPrefix(argument, "absent-"):
				return "", errors.New("lookup: no such host")
			case verb == "lookup":
				p, err := f.Get(t.Context(), "v1", "Pod", namespace, pod)
				if err != nil {
					return "", err
				}
				return text(p, "status", "podIP"), nil
			case verb == "read":
				return f.written, nil
			}
			return "", errors.New("unexpected " + command)
		}
	}
	instead := func(part, answer string, err error) breakage {
		return func(f *fakeAPI, _ *Env) {
			well := f.exec
			f.exec = func(pod, command string) (string, error) {
				if strings.Contains(command, part) {
					return answer, err
				}
				return well(pod, command)
			}
		}
	}
	for _, test := range []struct {
		check  string
		name   string
		broken breakage
		state  check.State
		says   string
	}{
		{"nodes", "well", nil, check.Succeeded, "5 of 5"},
		{"nodes", "one missing", func(f *fakeAPI, _ *Env) { delete(f.objects, "Node//agent2") }, check.Running, "not registered: agent2"},
		{"nodes", "one too many", func(f *fakeAPI, _ *Env) {
			f.put(map[string]any{"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"name": "stranger"}})
		}, check.Running, "not in the spec: stranger"},
		{"nodes", "not Ready", notReady, check.Running, "not Ready: agent1 runtime is down"},
		{"nodes", "a full disk", func(f *fakeAPI, _ *Env) {
			f.objects["Node//agent1"].Object["status"].(map[string]any)["conditions"] = []any{
				map[string]any{"type": "Ready", "status": "True"}, map[string]any{"type": "DiskPressure", "status": "True", "message": "kubelet has disk pressure"}}
		}, check.Running, "short of something: agent1 DiskPressure: kubelet has disk pressure"},
		{"nodes", "stopped by a person", observed(driver.Node{Name: "agent1", Stopped: true}), check.Failed, "orrery node start agent1"},
		{"nodes", "a full disk of the host", func(_ *fakeAPI, e *Env) {
			e.Observe = func(context.Context) (driver.Observation, error) {
				return driver.Observation{Full: "the disk of /x is full"}, nil
			}
		}, check.Failed, "the disk of /x is full"},
		{"nodes", "died just now", observed(driver.Node{Name: "agent1"}), check.Running, "not running: agent1"},
		{"nodes", "driver sees it run", observed(driver.Node{Name: "agent1", Running: true}), check.Succeeded, "5 of 5"},

		{"topology", "well", nil, check.Succeeded, "3 zones"},
		{"topology", "wrong zone", relabel("server2", zoneLabel, "z"), check.Running, `server2 has topology.kubernetes.io/zone="z", want "b"`},
		{"topology", "no rack", relabel("agent1", rackLabel, ""), check.Running, "agent1 has rack"},
		{"topology", "agent as server", relabel("agent1", roleLabel, "x"), check.Running, "agent1 is a agent"},

		{"apiservers", "well", nil, check.Succeeded, "3 of 3"},
		{"apiservers", "balancer down", func(f *fakeAPI, _ *Env) { delete(f.raw, "/readyz") }, check.Failed, "through the balancer"},
		{"apiservers", "one not behind the Service", func(f *fakeAPI, _ *Env) {
			slice := f.objects["EndpointSlice/default/kubernetes"].Object
			slice["endpoints"] = slice["endpoints"].([]any)[:2]
		}, check.Failed, "want 10.89.0.11, 10.89.0.12, 10.89.0.13"},
		{"apiservers", "one does not answer", instead("10.89.0.13", "", errors.New("connection refused")), check.Failed, "API server of server3"},
		{"apiservers", "no image", func(_ *fakeAPI, env *Env) { env.Images = nil }, check.Failed, `image "probe" is not known`},
		{"apiservers", "pod does not start", func(f *fakeAPI, _ *Env) { f.pending = true }, check.Failed, "0/5 nodes are available"},

		{"etcd", "well", nil, check.Succeeded, "each of 3 API servers"},
		{"etcd", "no quorum", instead("10.89.0.12", strings.Replace(healthy, "[+]etcd ok", "[-]etcd failed: reason withheld", 1), nil), check.Failed, "[-]etcd failed"},
		{"etcd", "a member down", func(_ *fakeAPI, env *Env) { env.Observe = members("server1", "server3") }, check.Failed, "does not run on server2"},
		{"etcd", "all members", func(_ *fakeAPI, env *Env) { env.Observe = members("server1", "server2", "server3") }, check.Succeeded, "3 of 3 members run"},

		{"namespaces", "well", nil, check.Succeeded, "restricted: platform"},
		{"namespaces", "one missing", func(f *fakeAPI, _ *Env) { delete(f.objects, "Namespace//data") }, check.Failed, "no namespace data"},
		{"namespaces", "no level", func(f *fakeAPI, _ *Env) { f.objects["Namespace//apps"].SetLabels(nil) }, check.Failed, "enforces no pod-security level"},
		{"pod-security", "well", func(f *fakeAPI, _ *Env) { f.admit = refuse }, check.Succeeded, "was refused"},
		{"pod-security", "let in", nil, check.Failed, "was let into"},
		{"pod-security", "refused by chance", func(f *fakeAPI, _ *Env) {
			f.admit = func(o *unstructured.Unstructured) error {
				return apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, o.GetName(), errors.New("exceeded quota"))
			}
		}, check.Failed, "exceeded quota"},

		{"quota", "in force", func(f *fakeAPI, _ *Env) {
			f.admit = func(o *unstructured.Unstructured) error {
				return apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, o.GetName(), errors.New("exceeded quota"))
			}
		}, check.Succeeded, "was refused"},
		{"quota", "none", nil, check.Failed, "not in force"},
		{"quota", "just made", quotaOf(time.Second), check.Running, "not in force yet"},
		{"quota", "let in", quotaOf(time.Hour), check.Failed, "not in force"},

		{"image-policy", "well", func(f *fakeAPI, _ *Env) { f.admit = unlisted("probe:v1@sha256:1") }, check.Succeeded, "one of 2 listed images was not"},
		{"image-policy", "not in force", nil, check.Running, "was let into namespace platform"},
		{"image-policy", "refuses all", func(f *fakeAPI, _ *Env) { f.admit = unlisted("nothing") }, check.Running, "is listed: "},
		{"image-policy", "refused by chance", func(f *fakeAPI, _ *Env) { f.admit = refuse }, check.Running, "PodSecurity"},
		{"image-policy", "tags let in", func(f *fakeAPI, _ *Env) { f.admit = unlisted("probe") }, check.Running, "probe:latest was let into"},
		{"image-policy", "not guarded", func(f *fakeAPI, _ *Env) { f.objects["Namespace//platform"].SetLabels(nil) }, check.Failed, "not guarded"},
		{"image-policy", "warns", func(f *fakeAPI, _ *Env) {
			f.objects["ValidatingAdmissionPolicyBinding//orrery-images"].Object["spec"] = map[string]any{"validationActions": []any{"Warn"}}
		}, check.Skipped, "only warns"},
		{"image-policy", "no list", func(f *fakeAPI, _ *Env) { delete(f.objects, "ConfigMap/platform/image-policy") }, check.Running, "allowed images"},
		{"image-policy", "empty list", func(f *fakeAPI, _ *Env) { f.objects["ConfigMap/platform/image-policy"].Object["data"] = nil }, check.Failed, "no image is allowed"},

		{"dns", "well", nil, check.Succeeded, "resolves the API's name"},
		{"dns", "wrong address", instead("lookup kubernetes", "10.0.0.1", nil), check.Failed, "want 10.96.0.1"},
		{"dns", "no DNS", instead("lookup kubernetes", "", errors.New("i/o timeout")), check.Failed, "i/o timeout"},
		{"dns", "answers for anything", instead("lookup absent", "10.0.0.1", nil), check.Failed, "something else answers"},

		{"storage", "well", nil, check.Succeeded, "kept its data"},
		{"storage", "data lost", instead("read", "", errors.New("no such file")), check.Failed, "no such file"},
		{"storage", "other data", instead("read", "0", nil), check.Failed, "the first one wrote"},

		{"metrics", "well", nil, check.Succeeded, "5 nodes and 1 pods"},
		{"metrics", "not served", func(f *fakeAPI, _ *Env) { clear(f.raw) }, check.Running, "503"},
		{"metrics", "zeros", func(f *fakeAPI, _ *Env) { f.raw["/apis/metrics.k8s.io/v1beta1/nodes"] = usageOf("0", "1Gi") }, check.Running, `cpu "0"`},
		{"metrics", "a node missing", func(f *fakeAPI, _ *Env) {
			f.raw["/apis/metrics.k8s.io/v1beta1/nodes"] = strings.Replace(usageOf("1", "1Gi"), "agent2", "other", 1)
		}, check.Running, "no metrics of node agent2"},
		{"metrics", "nonsense", func(f *fakeAPI, _ *Env) { f.raw["/apis/metrics.k8s.io/v1beta1/nodes"] = "<html>" }, check.Running, "invalid character"},
	} {
		t.Run(test.check+"/"+test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f, env := newFake(t)
				f.raw["/apis/metrics.k8s.io/v1beta1/nodes"] = usageOf("250m", "1Gi")
				f.raw["/apis/metrics.k8s.io/v1beta1/namespaces/kube-system/pods"] = podUsage
				f.exec = answers(f)
				if test.broken != nil {
					test.broken(f, &env)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				r := find(t, test.check)(ctx, env)
				f.judge(t, r, test.state, test.says)
			})
		})
	}
}

// unlisted refuses pods whose image does not hold part, as the image policy does.
func unlisted(part string) func(*unstructured.Unstructured) error {
	return func(o *unstructured.Unstructured) error {
		containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "containers")
		if strings.Contains(containers[0].(map[string]any)["image"].(string), part) {
			return nil
		}
		return apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, o.GetName(), errors.New("ValidatingAdmissionPolicy 'orrery-images' denied request"))
	}
}

func notReady(f *fakeAPI, _ *Env) {
	f.objects["Node//agent1"].Object["status"].(map[string]any)["conditions"] = []any{map[string]any{"type": "Ready", "status": "False", "message": "runtime is down"}}
}

func observed(n driver.Node) func(*fakeAPI, *Env) {
	return func(_ *fakeAPI, env *Env) {
		env.Observe = func(context.Context) (driver.Observation, error) {
			return driver.Observation{Nodes: []driver.Node{n}}, nil
		}
	}
}

func relabel(node, label, value string) func(*fakeAPI, *Env) {
	return func(f *fakeAPI, _ *Env) {
		o := f.objects["Node//"+node]
		labels := o.GetLabels()
		labels[label] = value
		o.SetLabels(labels)
	}
}

func members(running ...string) func(context.Context) (driver.Observation, error) {
	return func(context.Context) (o driver.Observation, err error) {
		for _, name := range []string{"server1", "server2", "server3"} {
			n := driver.Node{Name: name, Running: true, Services: []driver.Service{{Name: "etcd"}}}
			if slices.Contains(running, name) {
				n.Services[0].PID = 7
			}
			o.Nodes = append(o.Nodes, n)
		}
		return o, nil
	}
}

// find the probe with a name.
func find(t *testing.T, name string) func(context.Context, Env) check.Result {
	t.Helper()
	for _, probes := range registry {
		for _, p := range probes {
			if p.name == name {
				return p.run
			}
		}
	}
	t.Fatalf("no check %s", name)
	return nil
}

func TestCleanupAfterCancel(t *testing.T) {
	f, env := newFake(t)
	f.pending = true
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	r := dns(ctx, env)
	if r.State != check.Failed || !errors.Is(r.Err, context.Canceled) {
		t.Errorf("%s: %v", r.State, r.Err)
	}
	if len(f.ever) != 2 {
		t.Errorf("made %v, want a Service and a pod", f.ever)
	}
	if left := f.left(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSweepOfKilledRuns(t *testing.T) {
	f, env := newFake(t)
	for name, age := range map[string]time.Duration{"smoke-dns-old": 2 * abandoned, "smoke-dns-running": time.Second} {
		u := f.put(map[string]any{
			"apiVersion": "v1", "kind": "Pod",
			"metadata": map[string]any{"name": name, "namespace": namespace, "labels": map[string]any{label: "dns"}},
		})
		u.SetCreationTimestamp(metav1.NewTime(time.Now().Add(-age)))
	}
	f.exec = func(string, string) (string, error) { return "", errTest }
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	dns(ctx, env)
	if left := f.left(); !slices.Equal(left, []string{"Pod/apps/smoke-dns-running"}) {
		t.Errorf("left %v, want the pod of the run that still goes on", left)
	}
}

// TestRegistry holds the table to what callers rely on.
func TestRegistry(t *testing.T) {
	checks := Checks(Env{})
	for _, name := range append([]string{"namespaces", "dns", "storage", "metrics", "nats"}, ClusterChecks...) {
		conditionsOf, ok := checks[name]
		if !ok {
			t.Errorf("no check %s", name)
			continue
		}
		for _, c := range conditionsOf("it") {
			if c.Component != "it" || c.Name == "" || c.Timeout == 0 || c.Probe == nil {
				t.Errorf("%s: incomplete condition %+v", name, c)
			}
		}
	}
}

// quotaOf is a quota in apps of that age.
func quotaOf(age time.Duration) func(*fakeAPI, *Env) {
	return func(f *fakeAPI, _ *Env) {
		q := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ResourceQuota",
			"metadata": map[string]any{"name": "apps", "namespace": namespace}}}
		q.SetCreationTimestamp(metav1.NewTime(time.Now().Add(-age)))
		f.objects["ResourceQuota/apps/apps"] = q
	}
}
