package kubetest_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/kube/kubetest"
)

func connect(t *testing.T) (*kubetest.Server, *kube.Client) {
	t.Helper()
	s := kubetest.New(t)
	c, err := kube.Connect(kubeconfig(t, s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return s, c
}

func kubeconfig(t *testing.T, s *kubetest.Server) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, s.Kubeconfig(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// other is a client of somebody else, who changes what is ours.
func other(t *testing.T, s *kubetest.Server) dynamic.Interface {
	t.Helper()
	config, err := clientcmd.RESTConfigFromKubeConfig(s.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func objects(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	var objs []*unstructured.Unstructured
	for doc := range strings.SplitSeq(text, "---\n") {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		j, err := yaml.YAMLToJSON([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		o := &unstructured.Unstructured{}
		if err := o.UnmarshalJSON(j); err != nil {
			t.Fatal(err)
		}
		objs = append(objs, o)
	}
	return objs
}

const platform = `
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: shop}, data: {k: v}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop},
  spec: {selector: {app: web}, ports: [{port: 80}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "example.com/web:1"}]}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db, namespace: shop},
  spec: {replicas: 3, selector: {matchLabels: {app: db}},
    template: {metadata: {labels: {app: db}}, spec: {containers: [{name: db}]}}}}
---
{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: agent, namespace: shop},
  spec: {selector: {matchLabels: {app: agent}},
    template: {metadata: {labels: {app: agent}}, spec: {containers: [{name: agent}]}}}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: init, namespace: shop},
  spec: {template: {spec: {containers: [{name: init}], restartPolicy: Never}}}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: shop},
  spec: {resources: {requests: {storage: 1Gi}}}}
---
{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: web, namespace: shop},
  spec: {maxUnavailable: 1, selector: {matchLabels: {app: web}}}}
---
{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1.metrics.example.com},
  spec: {group: metrics.example.com, version: v1}}
---
{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: web}, webhooks: []}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: planets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Planet, plural: planets, singular: planet}
  versions: [{name: v1, served: true, storage: true}]
---
{apiVersion: example.com/v1, kind: Planet, metadata: {name: jupiter, namespace: shop, annotations: {orrery.dev/ready: Orbiting}},
  spec: {moons: 95}}
`

// A component's whole life, as internal/kube leads it.
func TestComponent(t *testing.T) {
	s, c := connect(t)
	s.SetNodes([]kubetest.Node{{Name: "server1", Ready: true, Server: true}, {Name: "agent1", Ready: true}})
	objs := objects(t, platform)
	changes, err := c.Diff(t.Context(), "shop", objs)
	if err != nil || len(changes) != len(objs) {
		t.Fatalf("diff before: %d changes, %v", len(changes), err)
	}
	if s.Get("v1", "Namespace", "", "shop") != nil {
		t.Fatal("a dry run made something")
	}
	applied, err := c.Apply(t.Context(), "shop", objs)
	if err != nil || applied.Created != len(objs) {
		t.Fatalf("applied %+v, %v", applied, err)
	}
	if r := c.Ready("shop", objs).Probe(t.Context()); r.State != check.Succeeded {
		t.Fatalf("ready: %+v", r)
	}
	applied, err = c.Apply(t.Context(), "shop", objs)
	if err != nil || applied.Unchanged != len(objs) {
		t.Fatalf("applied again: %+v, %v", applied, err)
	}
	if changes, err := c.Diff(t.Context(), "shop", objs); err != nil || len(changes) > 0 {
		t.Fatalf("diff after: %v, %v", changes, err)
	}
	wantStanding(t, c, kube.Standing{Intact: true, Ready: true})

	pods, err := c.List(t.Context(), "v1", "Pod", "shop", "app in (web, agent)")
	if err != nil || len(pods) != 4 {
		t.Fatalf("%d pods, %v", len(pods), err)
	}
	if log, err := c.Logs(t.Context(), "shop", "web-0", "", 5); err != nil || !strings.Contains(log, "web-0/web") {
		t.Errorf("log %q, %v", log, err)
	}

	// Less of it: the rest is pruned, with what it owned and what it defined.
	applied, err = c.Apply(t.Context(), "shop", objs[:3])
	if err != nil || applied.Pruned != len(objs)-3 || applied.Unchanged != 3 {
		t.Fatalf("applied less: %+v, %v", applied, err)
	}
	if pods, err := c.List(t.Context(), "v1", "Pod", "shop", ""); err != nil || len(pods) > 0 {
		t.Errorf("%d pods after their workloads, %v", len(pods), err)
	}
	if _, err := c.List(t.Context(), "example.com/v1", "Planet", "", ""); err == nil {
		t.Error("the kind outlived its CRD")
	}
	if err := c.Remove(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	if all, err := c.Inventories(t.Context()); err != nil || len(all) > 0 || s.Get("v1", "Namespace", "", "shop") != nil {
		t.Errorf("left after removal: %v, %v", all, err)
	}
}

func wantStanding(t *testing.T, c *kube.Client, want kube.Standing) {
	t.Helper()
	all, err := c.Inventories(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Standings(t.Context(), all)
	if err != nil || got["shop"] != want {
		t.Errorf("standing %+v, %v; want %+v", got["shop"], err, want)
	}
}

// What another manager does to our fields is seen, and mended; what is its own stays.
func TestDrift(t *testing.T) {
	s, c := connect(t)
	objs := objects(t, platform)[:2]
	if _, err := c.Apply(t.Context(), "shop", objs); err != nil {
		t.Fatal(err)
	}
	maps := other(t, s).Resource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}).Namespace("shop")
	patch := func(body string) {
		t.Helper()
		if _, err := maps.Patch(t.Context(), "settings", types.MergePatchType, []byte(body),
			metav1.PatchOptions{FieldManager: "somebody"}); err != nil {
			t.Fatal(err)
		}
	}
	patch(`{"data":{"theirs":"x"}}`)
	wantStanding(t, c, kube.Standing{Intact: true, Ready: true})
	patch(`{"data":{"k":"v"}}`)
	wantStanding(t, c, kube.Standing{Intact: true, Ready: true})
	patch(`{"data":{"k":"changed"}}`)
	wantStanding(t, c, kube.Standing{Intact: false, Ready: true})
	changes, err := c.Diff(t.Context(), "shop", objs)
	if err != nil || len(changes) != 1 || !strings.Contains(changes[0].Diff, "-  k: changed") {
		t.Fatalf("%+v, %v", changes, err)
	}
	if _, err := maps.Apply(t.Context(), "settings", objects(t,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {k: mine}}`)[0],
		metav1.ApplyOptions{FieldManager: "third"}); !apierrors.IsConflict(err) {
		t.Errorf("an apply without force over a field of others: %v", err)
	}
	if applied, err := c.Apply(t.Context(), "shop", objs); err != nil || applied.Changed != 1 {
		t.Fatalf("%+v, %v", applied, err)
	}
	wantStanding(t, c, kube.Standing{Intact: true, Ready: true})
	if data, _, _ := unstructured.NestedStringMap(s.Get("v1", "ConfigMap", "shop", "settings").Object, "data"); data["k"] != "v" ||
		data["theirs"] != "x" {
		t.Errorf("data %v", data)
	}
}

// What is held back is not ready, says why, and becomes ready when it is let go.
func TestHold(t *testing.T) {
	for _, tt := range []struct {
		ref          kubetest.Ref
		reason, want string
		state        check.State
	}{
		{kubetest.Ref{Kind: "Deployment", Name: "web"}, "ImagePullBackOff: no such image",
			"pod web-0: container web: ImagePullBackOff: no such image", check.Running},
		{kubetest.Ref{Kind: "StatefulSet"}, "CrashLoopBackOff: it ends", "container db: CrashLoopBackOff", check.Running},
		{kubetest.Ref{Kind: "DaemonSet"}, "CrashLoopBackOff: it ends", "container agent: CrashLoopBackOff", check.Running},
		{kubetest.Ref{Kind: "Job"}, "Waiting: for something", "not complete", check.Running},
		{kubetest.Ref{Kind: "Job"}, "Failed: too often", "the Job failed: too often", check.Failed},
		{kubetest.Ref{Kind: "PersistentVolumeClaim"}, "no volume", "PersistentVolumeClaim shop/data", check.Running},
		{kubetest.Ref{Kind: "APIService"}, "no endpoints", "not available: no endpoints", check.Running},
		{kubetest.Ref{Kind: "CustomResourceDefinition"}, "names are in use", "CustomResourceDefinition planets.example.com", check.Running},
		{kubetest.Ref{Kind: "Planet"}, "too far", "not Orbiting: too far", check.Running},
	} {
		t.Run(tt.ref.Kind+" "+tt.reason, func(t *testing.T) {
			s, c := connect(t)
			s.SetNodes([]kubetest.Node{{Name: "server1", Ready: true}})
			objs := objects(t, platform)
			if tt.ref.Kind != "CustomResourceDefinition" { // else applying waits for it
				s.Hold(tt.ref, tt.reason)
			}
			if _, err := c.Apply(t.Context(), "shop", objs); err != nil {
				t.Fatal(err)
			}
			s.Hold(tt.ref, tt.reason)
			ready := c.Ready("shop", objs)
			if r := ready.Probe(t.Context()); r.State != tt.state || !strings.Contains(r.Message+errText(r.Err), tt.want) {
				t.Errorf("held: %+v; want %q", r, tt.want)
			}
			s.Release(tt.ref)
			if r := ready.Probe(t.Context()); r.State != check.Succeeded {
				t.Errorf("let go: %+v", r)
			}
		})
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// An event says why a pod waits that does not say so itself.
func TestEvent(t *testing.T) {
	s, c := connect(t)
	s.Hold(kubetest.Ref{Kind: "Deployment", Name: "web"}, "ContainerCreating")
	objs := objects(t, platform)[:4]
	if _, err := c.Apply(t.Context(), "shop", objs); err != nil {
		t.Fatal(err)
	}
	s.Event(kubetest.Ref{Kind: "Pod", Namespace: "shop", Name: "another"}, "Other", "of another")
	s.Event(kubetest.Ref{Kind: "Pod", Namespace: "shop", Name: "web-0"}, "FailedMount", "no such secret")
	if r := c.Ready("shop", objs).Probe(t.Context()); !strings.Contains(r.Message, "FailedMount: no such secret") {
		t.Errorf("%+v", r)
	}
}

func TestSecrets(t *testing.T) {
	_, c := connect(t)
	component := catalog.Component{Name: "keys", Namespace: "vault", Secrets: []catalog.Secret{
		{Name: "keys", NKeys: map[string]string{"admin": "user"}, Passwords: map[string]int{"p": 12}},
		{Name: "public", PublicNKeys: []string{"keys/admin"}},
	}}
	var before map[string]string
	for range 2 {
		if err := c.EnsureSecrets(t.Context(), component); err != nil {
			t.Fatal(err)
		}
		o, err := c.Get(t.Context(), "v1", "Secret", "vault", "keys")
		if err != nil {
			t.Fatal(err)
		}
		data, _, _ := unstructured.NestedStringMap(o.Object, "data")
		if before != nil && data["admin.seed"] != before["admin.seed"] {
			t.Error("a seed was made anew")
		}
		before = data
	}
	if err := c.Remove(t.Context(), "keys"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(t.Context(), "v1", "Secret", "vault", "keys"); !apierrors.IsNotFound(err) {
		t.Errorf("the secret after removal: %v", err)
	}
}

// Finalizers hold what they are on, and the namespace or the CRD that it is in.
func TestFinalizers(t *testing.T) {
	s, c := connect(t)
	objs := objects(t, platform)
	held := objs[len(objs)-1]
	held.SetFinalizers([]string{"example.com/hold"})
	if _, err := c.Apply(t.Context(), "shop", objs); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := c.Remove(ctx, "shop"); err == nil || !strings.Contains(err.Error(), "example.com/hold") {
		t.Fatalf("removed, or for another reason: %v", err)
	}
	for _, o := range []*unstructured.Unstructured{objs[0], objs[len(objs)-2]} {
		if err := c.Delete(t.Context(), o.GetAPIVersion(), o.GetKind(), "", o.GetName(), 0); err != nil {
			t.Fatal(err)
		}
		if got := s.Get(o.GetAPIVersion(), o.GetKind(), "", o.GetName()); got == nil || got.GetDeletionTimestamp() == nil {
			t.Errorf("%s %s is not being deleted", o.GetKind(), o.GetName())
		}
	}
	late := objects(t, `{apiVersion: v1, kind: ConfigMap, metadata: {name: late, namespace: shop}}`)[0]
	if err := c.Create(t.Context(), late); err == nil || !strings.Contains(err.Error(), "being terminated") {
		t.Errorf("made something in a namespace that goes away: %v", err)
	}
	planets := other(t, s).Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "planets"}).Namespace("shop")
	if _, err := planets.Patch(t.Context(), "jupiter", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`),
		metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	for _, o := range []*unstructured.Unstructured{objs[0], objs[len(objs)-2], held} {
		if got := s.Get(o.GetAPIVersion(), o.GetKind(), o.GetNamespace(), o.GetName()); got != nil {
			t.Errorf("%s %s is left", o.GetKind(), o.GetName())
		}
	}
}

// Passing faults are passed over, others are told.
func TestFaults(t *testing.T) {
	s, c := connect(t)
	objs := objects(t, platform)[:2]
	s.Inject(kubetest.Fault{Method: http.MethodPatch, Path: "configmaps", Times: 2, Status: http.StatusServiceUnavailable})
	s.Inject(kubetest.Fault{Method: http.MethodPatch, Path: "namespaces/shop", Times: 1, Drop: true})
	s.Inject(kubetest.Fault{Path: "labelSelector", Times: 1, Delay: 20 * time.Millisecond})
	if applied, err := c.Apply(t.Context(), "shop", objs); err != nil || applied.Created != 2 {
		t.Fatalf("%+v, %v", applied, err)
	}
	undo := s.Inject(kubetest.Fault{Method: http.MethodPatch, Path: "/configmaps/settings", Status: http.StatusForbidden,
		Message: "you may not"})
	if _, err := c.Apply(t.Context(), "shop", objs); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "you may not") {
		t.Errorf("a refusal: %v", err)
	}
	undo()
	if _, err := c.Apply(t.Context(), "shop", objs); err != nil {
		t.Error(err)
	}
	if !slices.ContainsFunc(s.Requests(), func(r kubetest.Request) bool {
		return r.Method == http.MethodPatch && strings.Contains(r.Path, "force=true")
	}) {
		t.Error("requests are not recorded")
	}
}

// A restart keeps the data and the address; a reset keeps nothing.
func TestRestart(t *testing.T) {
	s, c := connect(t)
	objs := objects(t, platform)[:2]
	if _, err := c.Apply(t.Context(), "shop", objs); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	if _, err := c.RawGet(t.Context(), "/readyz"); !kube.Transient(err) {
		t.Errorf("while it is stopped: %v", err)
	}
	if err := s.Listen(""); err != nil {
		t.Fatal(err)
	}
	wantStanding(t, c, kube.Standing{Intact: true, Ready: true})
	s.Reset()
	if _, err := c.Get(t.Context(), "v1", "Namespace", "", "shop"); !apierrors.IsNotFound(err) {
		t.Errorf("after a reset: %v", err)
	}
	if _, err := c.Get(t.Context(), "v1", "ServiceAccount", "default", "default"); err != nil {
		t.Error(err)
	}
}

func TestPaths(t *testing.T) {
	s, c := connect(t)
	s.Handle("/apis/metrics.k8s.io/", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_,
			_ = w.Write([]byte(`{"items":[]}`))
	}))
	for path, want := range map[string]string{
		"/version": kubetest.Version, "/readyz": "ok", "/api": "v1", "/apis": "apps", "/apis/apps/v1": "deployments",
		"/apis/metrics.k8s.io/v1beta1/nodes": "items",
	} {
		if body, err := c.RawGet(t.Context(), path); err != nil || !strings.Contains(string(body), want) {
			t.Errorf("%s: %.80q, %v", path, body, err)
		}
	}
	for _, path := range []string{"/apis/nobody.example.com/v1", "/nowhere", "/api/v1/namespaces/default/pods/none/log"} {
		if _, err := c.RawGet(t.Context(), path); !apierrors.IsNotFound(err) {
			t.Errorf("%s: %v", path, err)
		}
	}
	stranger, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+s.Address()+"/api/v1/namespaces", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := http.DefaultClient.Do(stranger); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("somebody who knows no certificate: %v", err)
	}
}

// What is denied is forbidden, and the server says so when it is asked.
func TestDeny(t *testing.T) {
	s, c := connect(t)
	s.Deny("create", "", "namespaces")
	s.Deny("", "apps", "deployments")
	review := func(verb, group, resource string) bool {
		t.Helper()
		body := []byte(`{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview",
			"spec":{"resourceAttributes":{"verb":"` + verb + `","group":"` + group + `","resource":"` + resource + `"}}}`)
		answer, err := c.RawPost(t.Context(), "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "application/json", body)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(answer), `"allowed":true`)
	}
	if review("create", "", "namespaces") || review("patch", "apps", "deployments") || !review("list", "", "namespaces") {
		t.Error("the reviews are wrong")
	}
	if err := c.Create(t.Context(), objects(t, platform)[0]); !apierrors.IsForbidden(err) {
		t.Errorf("made what is denied: %v", err)
	}
	if _, err := c.List(t.Context(), "apps/v1", "Deployment", "", ""); !apierrors.IsForbidden(err) {
		t.Errorf("listed what is denied: %v", err)
	}
}
