package smoke

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/spec"
)

// fakeAPI keeps objects in memory. Pods are Ready at once, on the nodes in turn.
type fakeAPI struct {
	mu       sync.Mutex
	objects  map[string]*unstructured.Unstructured
	ever     []string // kind/name of all that was created
	nodes    []string
	raw      map[string]string
	exec     func(pod, command string) (string, error)
	admit    func(*unstructured.Unstructured) error
	post     func(path string, body []byte) ([]byte, error)
	get      func(path string) ([]byte, error) // for what raw has not
	unknown  string                            // a kind that is not served
	read     func(key string)                  // told of each object that is read
	healing  int                               // how often a changed object is read before it is as it was
	portless bool                              // Services get no port on the nodes
	pending  bool                              // pods stay Pending
	forwards map[string]string                 // pod:port → address that listens
	written  string                            // by a pod whose command is "write"
	job      fakeJob
}

// fakeJob is what becomes of the pod of every Job.
type fakeJob struct {
	logs     func(call int) io.Reader // what following its container reads, each time
	calls    int
	exit     int64
	ends     bool           // it has ended when it is looked at
	waiting  map[string]any // it does not start: the reason
	podless  bool           // there is none
	vanishes bool           // it is gone when it is looked at again
}

func (f *fakeAPI) FollowLogs(ctx context.Context, _, pod, container string) (io.ReadCloser, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.job.logs == nil || container != "check" {
		return nil, fmt.Errorf("no logs of %s of pod %s", container, pod)
	}
	f.job.calls++
	r := f.job.logs(f.job.calls)
	stop := func() bool { return true }
	if c, ok := r.(io.Closer); ok { // as the body of a response ends with its request
		stop = context.AfterFunc(ctx, func() { c.Close() })
	}
	return struct {
		io.Reader
		io.Closer
	}{r, closer(func() error { stop(); return nil })}, nil
}

type closer func() error

func (c closer) Close() error { return c() }

// start makes the pod of a Job.
func (f *fakeAPI) start(job *unstructured.Unstructured) {
	if f.job.podless {
		f.put(map[string]any{
			"apiVersion": "v1", "kind": "Event", "metadata": map[string]any{"name": "e", "namespace": job.GetNamespace()}, "type": "Warning",
			"involvedObject": map[string]any{"name": job.GetName()}, "message": "pods are forbidden: violates PodSecurity",
		})
		return
	}
	labels, _, _ := unstructured.NestedMap(job.Object, "spec", "template", "metadata", "labels")
	spec, _, _ := unstructured.NestedMap(job.Object, "spec", "template", "spec")
	state := map[string]any{"running": map[string]any{}}
	if f.job.waiting != nil {
		state = map[string]any{"waiting": f.job.waiting}
	} else if f.job.ends {
		state = map[string]any{"terminated": map[string]any{"exitCode": f.job.exit, "reason": "Completed"}}
	}
	f.put(map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": job.GetName() + "-x", "namespace": job.GetNamespace(), "labels": labels},
		"spec": spec, "status": map[string]any{"phase": "Running", "containerStatuses": []any{map[string]any{"name": "check", "state": state}}},
	})
}

// newFake is a fake of the default environment's cluster, all well.
func newFake(t *testing.T) (*fakeAPI, Env) {
	t.Helper()
	f := &fakeAPI{objects: map[string]*unstructured.Unstructured{}, raw: map[string]string{}}
	env := Env{Client: f, Spec: spec.Default(), Images: map[string]string{"probe": "registry.orrery.internal/probe:test"}, ClusterDomain: "cluster.local"}
	var endpoints []any
	for _, n := range env.Spec.Topology() {
		labels := map[string]any{zoneLabel: n.Zone, rackLabel: n.Rack}
		if n.Role == spec.RoleServer {
			labels[roleLabel] = ""
			endpoints = append(endpoints, map[string]any{"addresses": []any{n.Address.String()}})
		}
		f.nodes = append(f.nodes, n.Name)
		f.put(map[string]any{
			"apiVersion": "v1", "kind": "Node",
			"metadata": map[string]any{"name": n.Name, "labels": labels},
			"status": map[string]any{
				"addresses":  []any{map[string]any{"type": "InternalIP", "address": n.Address.String()}},
				"conditions": []any{map[string]any{"type": "Ready", "status": "True"}},
			},
		})
	}
	for _, name := range platformNamespaces {
		f.put(map[string]any{
			"apiVersion": "v1", "kind": "Namespace",
			"metadata": map[string]any{"name": name, "labels": map[string]any{enforceLabel: "restricted"}},
			"status":   map[string]any{"phase": "Active"},
		})
	}
	f.objects["Namespace//platform"].SetLabels(map[string]string{enforceLabel: "restricted", imageLabel: "enforced"})
	f.put(map[string]any{
		"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
		"metadata": map[string]any{"name": "orrery-images"},
		"spec":     map[string]any{"validationActions": []any{"Deny", "Audit"}},
	})
	f.put(map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": "image-policy", "namespace": "platform"},
		"data":     map[string]any{"images": "registry.orrery.internal/probe:v1@sha256:1\nregistry.orrery.internal/x:v1@sha256:2"},
	})
	f.put(map[string]any{
		"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
		"metadata":  map[string]any{"name": "kubernetes", "namespace": "default", "labels": map[string]any{"kubernetes.io/service-name": "kubernetes"}},
		"endpoints": endpoints,
	})
	f.raw["/readyz"] = "ok"
	return f, env
}

func key(kind, namespace, name string) string { return kind + "/" + namespace + "/" + name }

// judge wants this result of a check, and nothing left of what it made.
func (f *fakeAPI) judge(t *testing.T, r check.Result, state check.State, says ...string) {
	t.Helper()
	if r.State != state {
		t.Errorf("%s: %q; want %s", r.State, r.Message, state)
	}
	for _, text := range says {
		if !strings.Contains(r.Message, text) {
			t.Errorf("%q does not say %q", r.Message, text)
		}
	}
	if left := f.left(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func (f *fakeAPI) put(o map[string]any) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: o}
	f.objects[key(u.GetKind(), u.GetNamespace(), u.GetName())] = u
	return u
}

func (f *fakeAPI) Get(ctx context.Context, _, kind, namespace, name string) (*unstructured.Unstructured, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if f.read != nil {
		f.read(key(kind, namespace, name))
	}
	if o, ok := f.objects[key(kind, namespace, name)]; ok && !(kind == "Pod" && f.job.vanishes) {
		return o.DeepCopy(), nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: strings.ToLower(kind) + "s"}, name)
}

func (f *fakeAPI) List(ctx context.Context, _, kind, namespace, selector string) (found []unstructured.Unstructured, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if kind == f.unknown {
		return nil, &meta.NoKindMatchError{GroupKind: schema.GroupKind{Kind: kind}}
	}
	for _, k := range slices.Sorted(maps.Keys(f.objects)) {
		o := f.objects[k]
		name, value, _ := strings.Cut(selector, "=")
		if o.GetKind() == kind && (namespace == "" || o.GetNamespace() == namespace) && (selector == "" || o.GetLabels()[name] == value) {
			found = append(found, *o.DeepCopy())
		}
	}
	return found, ctx.Err()
}

func (f *fakeAPI) Create(ctx context.Context, o *unstructured.Unstructured) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if f.admit != nil {
		if err := f.admit(o); err != nil {
			return err
		}
	}
	o.SetCreationTimestamp(metav1.Now())
	if o.GetKind() == "Service" {
		f.serve(o)
	}
	if o.GetKind() == "Pod" {
		containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "containers")
		if args, _, _ := unstructured.NestedStringSlice(containers[0].(map[string]any), "args"); len(args) == 3 && args[0] == "write" {
			f.written = args[2]
		}
		phase := "Running"
		if restart := text(o, "spec", "restartPolicy"); restart == "Never" {
			phase = "Succeeded"
		}
		status := map[string]any{
			"phase": phase, "podIP": fmt.Sprintf("10.244.0.%d", len(f.ever)+1),
			"conditions": []any{map[string]any{"type": "Ready", "status": "True"}},
		}
		if f.pending {
			status = map[string]any{"phase": "Pending", "conditions": []any{map[string]any{"type": "PodScheduled", "status": "False", "message": "0/5 nodes are available"}}}
		}
		o.Object["status"] = status
		node := text(o, "spec", "nodeSelector", hostnameLabel)
		if node == "" {
			node = f.nodes[len(f.ever)%len(f.nodes)]
		}
		unstructured.SetNestedField(o.Object, node, "spec", "nodeName")
	}
	if o.GetKind() == "Job" {
		f.start(o)
	}
	f.ever = append(f.ever, o.GetKind()+"/"+o.GetName())
	f.put(o.Object)
	return nil
}

// serve gives a Service its address, and a port on the nodes when it asks for one.
func (f *fakeAPI) serve(o *unstructured.Unstructured) {
	if text(o, "spec", "clusterIP") == "" {
		unstructured.SetNestedField(o.Object, fmt.Sprintf("10.96.1.%d", len(f.ever)+1), "spec", "clusterIP")
	}
	if text(o, "spec", "type") == "NodePort" && !f.portless {
		ports, _, _ := unstructured.NestedSlice(o.Object, "spec", "ports")
		ports[0].(map[string]any)["nodePort"] = int64(30080)
		unstructured.SetNestedSlice(o.Object, ports, "spec", "ports")
	}
}

func (f *fakeAPI) DryRun(ctx context.Context, o *unstructured.Unstructured) error {
	if f.admit != nil {
		if err := f.admit(o); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (f *fakeAPI) Delete(ctx context.Context, _, kind, namespace, name string, _ int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	delete(f.objects, key(kind, namespace, name))
	return nil
}

// MergePatch changes fields of the spec, until healing reads have seen it; without healing it stays.
func (f *fakeAPI) MergePatch(ctx context.Context, ref kube.Ref, change map[string]any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := key(ref.Kind, ref.Namespace, ref.Name)
	was := f.objects[k]
	if ctx.Err() != nil || was == nil {
		return errTest
	}
	now := was.DeepCopy()
	for field, v := range change["spec"].(map[string]any) {
		if err := unstructured.SetNestedField(now.Object, v, "spec", field); err != nil {
			return err
		}
	}
	f.objects[k] = now
	if f.healing > 0 {
		left := f.healing
		f.read = func(of string) {
			if left--; of == k && left == 0 {
				f.objects[k], f.read = was, nil
			}
		}
	}
	return nil
}

func (f *fakeAPI) PortForward(_ context.Context, _, pod string, port int) (string, func(), error) {
	if address, ok := f.forwards[fmt.Sprintf("%s:%d", pod, port)]; ok {
		return address, func() {}, nil
	}
	return "", nil, errTest
}

func (f *fakeAPI) Exec(ctx context.Context, _, pod, _ string, command []string, _ io.Reader, out, errOut io.Writer) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	answer, err := f.exec(pod, strings.Join(command[1:], " "))
	if err != nil {
		fmt.Fprintln(errOut, "probe:", err)
		return fmt.Errorf("command terminated with exit code 1")
	}
	fmt.Fprintln(out, answer)
	return nil
}

func (f *fakeAPI) RawGet(_ context.Context, path string) ([]byte, error) {
	if body, ok := f.raw[path]; ok {
		return []byte(body), nil
	}
	if f.get != nil {
		return f.get(path)
	}
	return nil, fmt.Errorf("%s: 503 Service Unavailable", path)
}

func (f *fakeAPI) RawPost(_ context.Context, path, _ string, body []byte) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.post == nil {
		return nil, fmt.Errorf("%s: 503 Service Unavailable", path)
	}
	return f.post(path, body)
}

// left are the objects in the checks' namespace, and what checks made elsewhere.
func (f *fakeAPI) left() (names []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, o := range f.objects {
		if o.GetNamespace() == namespace && o.GetKind() != "ResourceQuota" || o.GetLabels()[label] != "" {
			names = append(names, k)
		}
	}
	return names
}
