package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orrery-dev/orrery/internal/check"
)

// objects parses a YAML stream; every %s in it is the test's own namespace.
func objects(tb testing.TB, ns, text string) []*unstructured.Unstructured {
	tb.Helper()
	objs, err := parse([]byte(strings.ReplaceAll(text, "%s", ns)))
	if err != nil {
		tb.Fatal(err)
	}
	for _, o := range objs {
		if o.GetNamespace() == "" && !clusterKinds[o.GroupVersionKind().GroupKind()] {
			o.SetNamespace(ns)
		}
	}
	return objs
}

// namespace makes a namespace that a test has for itself.
func namespace(tb testing.TB, c *Client) string {
	tb.Helper()
	name := fmt.Sprintf("t%d", time.Now().UnixNano())
	ns := objects(tb, "", "{apiVersion: v1, kind: Namespace, metadata: {name: "+name+"}}")[0]
	if err := c.Create(tb.Context(), ns); err != nil {
		tb.Fatal(err)
	}
	return name
}

func configMap(name, value string) string {
	return fmt.Sprintf("---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: %s}, data: {k: %q}}\n", name, value)
}

const deploymentYAML = `---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: example.com/web:1
        ports: [{containerPort: 80}]
        resources: {requests: {cpu: 100m, memory: 0.5Gi}, limits: {memory: "1024Mi"}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80}]}}
---
{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: web}, spec: {maxUnavailable: 1, selector: {matchLabels: {app: web}}}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: web}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: "%s-web"}, rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]}
---
{apiVersion: v1, kind: Secret, metadata: {name: web}, data: {password: c2VjcmV0}}
`

const crdYAML = `---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: "planets.%s.example.com"}
spec:
  group: "%s.example.com"
  scope: Namespaced
  names: {kind: Planet, plural: planets, singular: planet}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {moons: {type: integer}}}}}}
`

const planetYAML = `---
apiVersion: "%s.example.com/v1"
kind: Planet
metadata: {name: jupiter}
spec: {moons: 95}
`

func mustApply(t *testing.T, c *Client, component string, objs []*unstructured.Unstructured) Applied {
	t.Helper()
	a, err := c.Apply(t.Context(), component, objs)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func wantApplied(t *testing.T, got Applied, created, changed, unchanged, pruned int) {
	t.Helper()
	if got.Created != created || got.Changed != changed || got.Unchanged != unchanged || got.Pruned != pruned {
		t.Errorf("applied %+v, want created %d, changed %d, unchanged %d, pruned %d", got, created, changed, unchanged, pruned)
	}
}

func exists(t *testing.T, c *Client, ns, kind, name string) bool {
	t.Helper()
	apiVersion := "v1"
	if kind == "Deployment" {
		apiVersion = "apps/v1"
	}
	_, err := c.Get(t.Context(), apiVersion, kind, ns, name)
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	return err == nil
}

func TestApply(t *testing.T) {
	c := connect(t)
	ns := namespace(t, c)
	component := ns + "-web"
	set := objects(t, ns, deploymentYAML+configMap("a", "1")+configMap("b", "1"))

	wantApplied(t, mustApply(t, c, component, set), 8, 0, 0, 0)
	inventory := func() *unstructured.Unstructured {
		o, err := c.Get(t.Context(), "v1", "ConfigMap", inventoryNamespace, inventoryPrefix+component)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	before := inventory()
	wantApplied(t, mustApply(t, c, component, set), 0, 0, 8, 0)
	if after := inventory(); after.GetResourceVersion() != before.GetResourceVersion() {
		t.Error("an apply that changes nothing wrote the inventory")
	}

	// Somebody else changes a field of ours and adds one of their own: only ours is put back.
	a, err := c.Get(t.Context(), "v1", "ConfigMap", ns, "a")
	if err != nil {
		t.Fatal(err)
	}
	a.Object["data"] = map[string]any{"k": "theirs", "extra": "kept"}
	r, err := c.resource(t.Context(), "v1", "ConfigMap", ns)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Update(t.Context(), a, metav1.UpdateOptions{FieldManager: "somebody"}); err != nil {
		t.Fatal(err)
	}
	wantApplied(t, mustApply(t, c, component, set), 0, 1, 7, 0)
	a, err = c.Get(t.Context(), "v1", "ConfigMap", ns, "a")
	if err != nil {
		t.Fatal(err)
	}
	if data, _, _ := unstructured.NestedStringMap(a.Object, "data"); data["k"] != "1" || data["extra"] != "kept" {
		t.Errorf("data = %v", data)
	}

	smaller := objects(t, ns, deploymentYAML+configMap("b", "2"))
	wantApplied(t, mustApply(t, c, component, smaller), 0, 1, 6, 1)
	if exists(t, c, ns, "ConfigMap", "a") {
		t.Error("what left the set is still in the cluster")
	}
	all, err := c.Inventories(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if inv := all[component]; inv.Hash != Hash(smaller) || len(inv.Objects) != 7 {
		t.Errorf("inventory = %+v", inv)
	}
}

// TestReplace: an object is made anew when its annotation says another thing, and only then.
func TestReplace(t *testing.T) {
	c := connect(t)
	ns := namespace(t, c)
	with := func(annotation string) []*unstructured.Unstructured {
		all := objects(t, ns, configMap("a", "x"))
		if annotation != "" {
			all[0].SetAnnotations(map[string]string{AnnotationReplace: annotation})
		}
		return all
	}
	uid := func() types.UID {
		t.Helper()
		live, err := c.Get(t.Context(), "v1", "ConfigMap", ns, "a")
		if err != nil {
			t.Fatal(err)
		}
		return live.GetUID()
	}
	var last types.UID
	for _, step := range []struct {
		annotation string
		anew       bool
	}{{"", true}, {"", false}, {"one", true}, {"one", false}, {"two", true}} {
		mustApply(t, c, ns, with(step.annotation))
		now := uid()
		if (now != last) != step.anew {
			t.Errorf("%q: made anew is %t, want %t", step.annotation, now != last, step.anew)
		}
		last = now
	}
}

func TestApplyCRDWithItsObjects(t *testing.T) {
	c := connect(t)
	ns := namespace(t, c)
	set := objects(t, ns, planetYAML+crdYAML)
	wantApplied(t, mustApply(t, c, ns, set), 2, 0, 0, 0)
	wantApplied(t, mustApply(t, c, ns, set), 0, 0, 2, 0)
	if err := c.Remove(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
}

func TestDeferred(t *testing.T) {
	c := connect(t)
	ns := namespace(t, c)
	planet := strings.Replace(planetYAML, "{name: jupiter}", `{name: jupiter, annotations: {orrery.dev/optional: "true"}}`, 1)
	set := objects(t, ns, planet+configMap("a", "1"))
	first := mustApply(t, c, ns, set)
	wantApplied(t, first, 1, 0, 0, 0)
	if len(first.Deferred) != 1 || first.Deferred[0].String() != "Planet "+ns+"/jupiter" {
		t.Errorf("deferred %v", first.Deferred)
	}
	if inv, err := c.Inventories(t.Context()); err != nil || len(inv[ns].Deferred) != 1 {
		t.Errorf("inventory = %+v, %v", inv[ns], err)
	}
	if r := c.Ready(ns, set).Probe(t.Context()); r.State != check.Succeeded {
		t.Errorf("readiness = %+v", r)
	}
	if changes, err := c.Diff(t.Context(), ns, set); err != nil || len(changes) != 0 {
		t.Errorf("diff = %+v, %v; a deferred object is no change", changes, err)
	}
	observe := func(want Observed) {
		t.Helper()
		inventories, err := c.Inventories(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Observe(t.Context(), map[string]Inventory{ns: inventories[ns]})
		if err != nil || got[ns] != want {
			t.Errorf("observed %+v, %v, want %+v", got[ns], err, want)
		}
	}
	observe(Observed{Intact: true, Ready: true})

	// An older orrery wrote down names without kinds: nobody can tell when those come to be.
	ref := Ref{"v1", "ConfigMap", inventoryNamespace, inventoryPrefix + ns}
	stored, err := c.Get(t.Context(), ref.APIVersion, ref.Kind, ref.Namespace, ref.Name)
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := unstructured.NestedString(stored.Object, "data", inventoryKey)
	write := func(text string) {
		t.Helper()
		if err := c.MergePatch(t.Context(), ref, map[string]any{"data": map[string]any{inventoryKey: text}}); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"version": 1, "hash": "x", "objects": [], "deferred": ["Planet ` + ns + `/jupiter"], "deferredKinds": ["example.org/v1 Planet"]}`)
	observe(Observed{Ready: true}) // so that it is applied again
	write(text)
	observe(Observed{Intact: true, Ready: true})

	mustApply(t, c, ns+"-crds", objects(t, ns, crdYAML))
	observe(Observed{})
	if r := c.Ready(ns, set).Probe(t.Context()); r.State != check.Failed || !errors.Is(r.Err, ErrDeferred) {
		t.Errorf("readiness = %+v", r)
	}
	second := mustApply(t, c, ns, set)
	wantApplied(t, second, 1, 0, 1, 0)
	if len(second.Deferred) != 0 {
		t.Errorf("still deferred: %v", second.Deferred)
	}
	observe(Observed{Intact: true, Ready: true})
	if inv, err := c.Inventories(t.Context()); err != nil || len(inv[ns].Deferred) != 0 || len(inv[ns].Objects) != 2 {
		t.Errorf("inventory = %+v, %v", inv[ns], err)
	}
}

func TestUnknownKind(t *testing.T) {
	c := connect(t)
	ns := namespace(t, c)
	_, err := c.Apply(t.Context(), ns, objects(t, ns, planetYAML+configMap("a", "1")))
	if err == nil || !strings.Contains(err.Error(), "the cluster knows no "+ns+".example.com/v1 Planet") {
		t.Errorf("error = %v", err)
	}
	if exists(t, c, ns, "ConfigMap", "a") {
		t.Error("something was applied before the error was found")
	}
}

func TestOwnership(t *testing.T) {
	c := connect(t)
	ns := namespace(t, c)
	one, two := ns+"-one", ns+"-two"
	mustApply(t, c, one, objects(t, ns, configMap("a", "1")+configMap("b", "1")))

	// Two may not take what is in One's inventory,
	_, err := c.Apply(t.Context(), two, objects(t, ns, configMap("a", "2")+configMap("c", "2")))
	if err == nil || !strings.Contains(err.Error(), "ConfigMap "+ns+"/a belongs to component "+one) {
		t.Errorf("error = %v", err)
	}
	if exists(t, c, ns, "ConfigMap", "c") {
		t.Error("something was applied before the conflict was found")
	}
	// nor what carries One's label only.
	if err := c.Delete(t.Context(), "v1", "ConfigMap", inventoryNamespace, inventoryPrefix+one, -1); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Apply(t.Context(), two, objects(t, ns, configMap("a", "2"))); err == nil || !strings.Contains(err.Error(), "belongs to component "+one) {
		t.Errorf("error = %v", err)
	}
	// One does not prune what has become somebody else's.
	mustApply(t, c, one, objects(t, ns, configMap("a", "1")+configMap("b", "1")))
	b := objects(t, ns, configMap("b", "1"))[0]
	b.SetLabels(map[string]string{LabelComponent: "other"})
	if _, err := c.serverSideApply(t.Context(), b, false); err != nil {
		t.Fatal(err)
	}
	wantApplied(t, mustApply(t, c, one, objects(t, ns, configMap("a", "1"))), 0, 0, 1, 0)
	if !exists(t, c, ns, "ConfigMap", "b") {
		t.Error("an object of another component was pruned")
	}
}

// roundTripper lets a test stand between client and server.
type roundTripper func(*http.Request, http.RoundTripper) (*http.Response, error)

func intercept(t *testing.T, c *Client, f roundTripper) *Client {
	t.Helper()
	config := *c.config
	config.WrapTransport = func(next http.RoundTripper) http.RoundTripper {
		return wrapped(func(r *http.Request) (*http.Response, error) { return f(r, next) })
	}
	d, err := newClient(&config)
	if err != nil {
		t.Fatal(err)
	}
	d.settle = c.settle
	return d
}

type wrapped func(*http.Request) (*http.Response, error)

func (w wrapped) RoundTrip(r *http.Request) (*http.Response, error) { return w(r) }

// TestCrash kills the client at each of its writes, before the server saw it and after.
// Whatever was made by then, the next apply of another set leaves exactly that set.
func TestCrash(t *testing.T) {
	t.Run("before the write", func(t *testing.T) { crash(t, false) })
	t.Run("after the write", func(t *testing.T) { crash(t, true) })
}

func crash(t *testing.T, delivered bool) {
	c := connect(t)
	crashed := errors.New("power loss")
	for n := 0; ; n++ {
		ns := namespace(t, c)
		old := objects(t, ns, configMap("a", "1")+configMap("b", "1")+configMap("c", "1"))
		mustApply(t, c, ns, old)
		next := objects(t, ns, configMap("b", "2")+configMap("d", "1")+deploymentYAML)
		var writes atomic.Int64
		ctx, cancel := context.WithCancelCause(t.Context())
		dying := intercept(t, c, func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
			if r.Method == http.MethodGet {
				return next.RoundTrip(r)
			}
			if writes.Add(1) > int64(n) {
				if delivered && writes.Load() == int64(n)+1 {
					if resp, err := next.RoundTrip(r); err == nil {
						resp.Body.Close()
					}
				}
				cancel(crashed)
				return nil, crashed
			}
			return next.RoundTrip(r)
		})
		_, err := dying.Apply(ctx, ns, next)
		cancel(nil)
		if err == nil {
			if n < 10 {
				t.Errorf("the apply took %d writes only", n)
			}
			return
		}
		last := objects(t, ns, configMap("d", "2")+configMap("e", "1"))
		if _, err := c.Apply(t.Context(), ns, last); err != nil {
			t.Fatalf("after a crash at write %d: %v", n, err)
		}
		for kind, apiVersion := range map[string]string{"ConfigMap": "v1", "Deployment": "apps/v1", "Secret": "v1", "ClusterRole": "rbac.authorization.k8s.io/v1"} {
			left, err := c.List(t.Context(), apiVersion, kind, "", LabelComponent+"="+ns)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, o := range left {
				names = append(names, o.GetName())
			}
			if kind == "ConfigMap" && !slices.Equal(names, []string{"d", "e"}) || kind != "ConfigMap" && len(names) > 0 {
				t.Errorf("after a crash at write %d these are left of %s: %q", n, kind, names)
			}
		}
	}
}

func TestRetries(t *testing.T) {
	c := connect(t)
	ns := namespace(t, c)
	answer := func(code int, reason, message string) func(*http.Request) (*http.Response, error) {
		return func(r *http.Request) (*http.Response, error) {
			body := fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","code":%d,"reason":%q,"message":%q}`, code, reason, message)
			rec := &http.Response{StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}}, Request: r, Body: responseBody{strings.NewReader(body)}}
			return rec, nil
		}
	}
	for name, fail := range map[string]func(*http.Request) (*http.Response, error){
		"conflict":    answer(409, "Conflict", "the object has been modified"),
		"webhook":     answer(500, "InternalError", `Internal error occurred: failed calling webhook "x": connection refused`),
		"etcd":        answer(500, "InternalError", "etcdserver: leader changed"),
		"unavailable": answer(503, "ServiceUnavailable", "the server is currently unable"),
		"refused":     func(r *http.Request) (*http.Response, error) { return refuse(r, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			var failures atomic.Int64
			shaky := intercept(t, c, func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
				if strings.HasSuffix(r.URL.Path, "/configmaps/"+name) && r.Method == http.MethodPatch && failures.Add(1) <= 3 {
					return fail(r)
				}
				return next.RoundTrip(r)
			})
			wantApplied(t, mustApply(t, shaky, ns+"-"+name, objects(t, ns, configMap(name, "1"))), 1, 0, 0, 0)
		})
	}
	t.Run("for ever", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		var asked atomic.Int64
		down := intercept(t, c, func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
			if r.Method == http.MethodPatch && strings.HasSuffix(r.URL.Path, "/x") {
				if asked.Add(1) == 3 { // its time is over while it tries again
					cancel(context.DeadlineExceeded)
				}
				return answer(503, "ServiceUnavailable", "the server is on holiday")(r)
			}
			return next.RoundTrip(r)
		})
		_, err := down.Apply(ctx, ns+"-x", objects(t, ns, configMap("x", "1")))
		if err == nil || !strings.Contains(err.Error(), "on holiday") || !strings.Contains(err.Error(), "ConfigMap "+ns+"/x") || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error = %v", err)
		}
		if n := asked.Load(); n > 3 {
			t.Errorf("asked %d times, want 3", n)
		}
	})
	t.Run("for good", func(t *testing.T) {
		_, err := c.Apply(t.Context(), ns+"-bad", objects(t, ns, strings.Replace(deploymentYAML, "replicas: 2", "replicas: -2", 1)))
		if err == nil || !strings.Contains(err.Error(), "apply Deployment "+ns+"/web") || !strings.Contains(err.Error(), "spec.replicas") {
			t.Errorf("error = %v", err)
		}
	})
	t.Run("immutable", func(t *testing.T) {
		ns := namespace(t, c)
		mustApply(t, c, ns, objects(t, ns, deploymentYAML))
		_, err := c.Apply(t.Context(), ns, objects(t, ns, strings.ReplaceAll(deploymentYAML, "app: web", "app: site")))
		if err == nil || !strings.Contains(err.Error(), "delete the object") {
			t.Errorf("error = %v", err)
		}
	})
}

// refuse answers as a server does that is not there.
func refuse(*http.Request, http.RoundTripper) (*http.Response, error) {
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
}

type responseBody struct{ *strings.Reader }

func (responseBody) Close() error { return nil }

func TestRemove(t *testing.T) {
	c := connect(t)
	withControllers(t)
	ns := fmt.Sprintf("t%d", time.Now().UnixNano())
	set := objects(t, ns, "{apiVersion: v1, kind: Namespace, metadata: {name: \"%s\"}}\n"+deploymentYAML)
	mustApply(t, c, ns, set)
	mustApply(t, c, ns+"-guest", objects(t, ns, configMap("guest", "1")))
	if err := c.Remove(t.Context(), ns); err == nil || !strings.Contains(err.Error(), `holds objects of the components ["`+ns+`-guest"]`) {
		t.Errorf("error = %v", err)
	}
	if !exists(t, c, ns, "Deployment", "web") {
		t.Error("something was removed before the refusal")
	}
	for _, component := range []string{ns + "-guest", ns, "never-applied"} {
		if err := c.Remove(t.Context(), component); err != nil {
			t.Fatal(err)
		}
	}
	if exists(t, c, "", "Namespace", ns) {
		t.Error("the namespace is still there")
	}
	all, err := c.Inventories(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := all[ns]; ok {
		t.Error("the inventory is still there")
	}
}

// TestRemoveStuckCRD: an API server that could not delete a CRD, and forgot to try again, is
// made to.
func TestRemoveStuckCRD(t *testing.T) {
	c := connect(t)
	ns := namespace(t, c)
	set := objects(t, ns, strings.Replace(crdYAML, "{name:", `{finalizers: [example.com/held], name:`, 1))
	mustApply(t, c, ns, set)
	ref := refOf(set[0])
	if err := c.Delete(t.Context(), ref.APIVersion, ref.Kind, "", ref.Name, -1); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { // until the server has done its own part
		live, err := c.Get(t.Context(), ref.APIVersion, ref.Kind, "", ref.Name)
		if err == nil && len(live.GetFinalizers()) > 1 {
			err = fmt.Errorf("held by %v", live.GetFinalizers())
		}
		return err
	})
	setStatus(t, c, ref, `{conditions: [{type: Terminating, status: "True", reason: InstanceDeletionFailed, message: "could not list instances"}], acceptedNames: {kind: Planet, plural: planets}, storedVersions: [v1]}`)
	patch := func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		answer, err := next.RoundTrip(r)
		if r.Method == http.MethodPatch && strings.HasSuffix(r.URL.Path, "/"+ref.Name) { // now it tries, and lets go
			r, err := c.resource(t.Context(), ref.APIVersion, ref.Kind, "")
			if err == nil {
				_, err = r.Patch(t.Context(), ref.Name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
			}
			if err != nil {
				t.Error(err)
			}
		}
		return answer, err
	}
	if err := intercept(t, c, patch).Remove(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
}

func TestQuiet(t *testing.T) {
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug}))
	c := connect(t, WithLog(log))
	if _, err := c.List(t.Context(), "v1", "ComponentStatus", "", ""); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text.String(), "deprecated") {
		t.Errorf("log = %q, want the server's warning", &text)
	}
	if strings.Contains(text.String(), "ComponentStatusList") {
		t.Errorf("log = %q: what the server answers may be a Secret", &text)
	}
}

func BenchmarkApplyNothing(b *testing.B) {
	c := connect(b)
	ns := namespace(b, c)
	text := deploymentYAML
	for i := range 54 {
		text += configMap(fmt.Sprintf("m%d", i), "v")
	}
	set := objects(b, ns, text)
	if _, err := c.Apply(b.Context(), ns, set); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		a, err := c.Apply(b.Context(), ns, set)
		if err != nil || a.Unchanged != len(set) {
			b.Fatalf("%+v, %v", a, err)
		}
	}
	b.ReportMetric(float64(len(set)), "objects")
}
