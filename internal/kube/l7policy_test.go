package kube

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// ciliumKinds names a folder with the definitions of CiliumNetworkPolicy and
// CiliumClusterwideNetworkPolicy as the pinned module of Cilium has them
// (pkg/k8s/apis/cilium.io/client/crds/v2). Without it the test has some without a schema.
const ciliumKinds = "ORRERY_TEST_CILIUM_CRDS"

const kindsWithoutSchema = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ciliumnetworkpolicies.cilium.io}
spec:
  group: cilium.io
  names: {kind: CiliumNetworkPolicy, listKind: CiliumNetworkPolicyList, plural: ciliumnetworkpolicies, singular: ciliumnetworkpolicy}
  scope: Namespaced
  versions: [{name: v2, served: true, storage: true, subresources: {status: {}}, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ciliumclusterwidenetworkpolicies.cilium.io}
spec:
  group: cilium.io
  names: {kind: CiliumClusterwideNetworkPolicy, listKind: CiliumClusterwideNetworkPolicyList, plural: ciliumclusterwidenetworkpolicies, singular: ciliumclusterwidenetworkpolicy}
  scope: Cluster
  versions: [{name: v2, served: true, storage: true, subresources: {status: {}}, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`

func ciliumCRDs(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	text := kindsWithoutSchema
	if dir := os.Getenv(ciliumKinds); dir != "" {
		text = ""
		for _, file := range []string{"ciliumnetworkpolicies.yaml", "ciliumclusterwidenetworkpolicies.yaml"} {
			b, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				t.Fatal(err)
			}
			text += "---\n" + string(b)
		}
	}
	objs, err := parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return objs
}

// ciliumPolicy has spec, in YAML, of a CiliumNetworkPolicy or, without a namespace, of a clusterwide one.
func ciliumPolicy(t *testing.T, namespace, field, spec string) *unstructured.Unstructured {
	t.Helper()
	kind := "CiliumNetworkPolicy"
	if namespace == "" {
		kind = "CiliumClusterwideNetworkPolicy"
	}
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "cilium.io/v2", "kind": kind, "metadata": map[string]any{"name": "p"}}}
	o.SetNamespace(namespace)
	var content any
	if err := yaml.Unmarshal([]byte(spec), &content); err != nil {
		t.Fatal(err)
	}
	o.Object[field] = content
	return o
}

func TestL7RulesAreRefused(t *testing.T) {
	c := connect(t)
	withControllers(t)
	ctx := t.Context()
	text, err := os.ReadFile("../../infra/k8s/base/cilium/l7-policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	policy, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	for component, objs := range map[string][]*unstructured.Unstructured{"cilium-kinds": ciliumCRDs(t), "cilium": policy} {
		t.Cleanup(func() {
			if err := c.Remove(context.Background(), component); err != nil {
				t.Error(err)
			}
		})
		if _, err := c.Apply(ctx, component, objs); err != nil {
			t.Fatal(err)
		}
	}
	const (
		endpoints = "endpointSelector: {}\n"
		http      = "[{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET, path: /public}]}}]"
	)
	eventually(t, func() error {
		err := c.DryRun(ctx, ciliumPolicy(t, "default", "spec", endpoints+"ingress: [{toPorts: "+http+"}]"))
		if err == nil {
			return errLetIn
		}
		if !apierrors.IsForbidden(err) {
			return err
		}
		return nil
	})
	for _, tt := range []struct {
		name, field, spec string
		want              string // "" is let in
	}{
		{"empty", "spec", endpoints + "ingress: [{}]", ""},
		{"layer 3", "spec", endpoints + "ingress: [{fromEndpoints: [{matchLabels: {a: b}}]}]\negress: [{toEntities: [kube-apiserver, remote-node]}]", ""},
		{"layer 4", "spec", endpoints + "ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]", ""},
		{"deny", "spec", endpoints + "ingressDeny: [{fromEntities: [world], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]\negressDeny: [{toCIDR: [10.0.0.0/8]}]", ""},
		{"icmp", "spec", endpoints + "egress: [{icmps: [{fields: [{type: 8, family: IPv4}]}]}]", ""},
		{"names", "spec", endpoints + "egress: [{toFQDNs: [{matchName: example.com}]}, {toEndpoints: [{}], toPorts: [{ports: [{port: '53', protocol: UDP}], rules: {dns: [{matchPattern: '*'}]}}]}]", ""},
		{"several", "specs", "- endpointSelector: {}\n  egress: [{}]\n- endpointSelector: {matchLabels: {a: b}}\n  ingress: [{}]", ""},

		{"http in", "spec", endpoints + "ingress: [{toPorts: " + http + "}]", "toPorts has rules.http: "},
		{"http out", "spec", endpoints + "egress: [{}, {toPorts: [{ports: [{port: '53', protocol: UDP}]}]}, {toPorts: " + http + "}]", "rules.http"},
		{"http that allows all", "spec", endpoints + "ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]}]", "rules.http"},
		{"kafka", "spec", endpoints + "ingress: [{toPorts: [{ports: [{port: '9092', protocol: TCP}], rules: {kafka: [{role: produce, topic: t}]}}]}]", "rules.kafka"},
		{"own parser", "spec", endpoints + "ingress: [{toPorts: [{ports: [{port: '11211', protocol: TCP}], rules: {l7proto: memcache, l7: [{command: get}]}}]}]", "rules.l7proto, rules.l7:"},
		{"server names", "spec", endpoints + "egress: [{toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [example.com]}]}]", "toPorts has serverNames: "},
		{"listener", "spec", endpoints + "egress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], listener: {envoyConfig: {name: a}, name: b}}]}]", "listener"},
		{"TLS", "spec", endpoints + "egress: [{toPorts: [{ports: [{port: '443', protocol: TCP}], terminatingTLS: {secret: {name: a, namespace: b}}, originatingTLS: {secret: {name: a, namespace: b}}}]}]", "terminatingTLS, originatingTLS"},
		{"the last of several", "specs", "- endpointSelector: {}\n  egress: [{}]\n- endpointSelector: {}\n  ingress: [{}, {toPorts: " + http + "}]", "rules.http"},
	} {
		for kind, namespace := range map[string]string{"namespaced": "default", "clusterwide": ""} {
			t.Run(tt.name+", "+kind, func(t *testing.T) {
				err := c.DryRun(ctx, ciliumPolicy(t, namespace, tt.field, tt.spec))
				switch {
				case tt.want == "" && err != nil:
					t.Error(err)
				case tt.want != "" && err == nil:
					t.Error("was let in")
				case tt.want != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "need Envoy")):
					t.Errorf("%v\ndoes not say %q and why", err, tt.want)
				}
			})
		}
	}
	t.Run("what is there already", func(t *testing.T) { testOldL7Rules(t, c, policy, endpoints+"ingress: [{toPorts: "+http+"}]") })
}

// testOldL7Rules: a rule that was there before can be labelled and removed, and not changed to another.
func testOldL7Rules(t *testing.T, c *Client, policy []*unstructured.Unstructured, spec string) {
	ctx := t.Context()
	if err := c.Remove(ctx, "cilium"); err != nil {
		t.Fatal(err)
	}
	old := ciliumPolicy(t, "default", "spec", spec)
	old.SetName("old")
	eventually(t, func() error { return c.Create(ctx, old.DeepCopy()) })
	if _, err := c.Apply(ctx, "cilium", policy); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		o := old.DeepCopy()
		o.SetName("new")
		return refused(c.DryRun(ctx, o))
	})
	policies, err := c.resource(ctx, "cilium.io/v2", "CiliumNetworkPolicy", "default")
	if err != nil {
		t.Fatal(err)
	}
	update := func(change func(*unstructured.Unstructured)) error {
		live, err := c.Get(ctx, "cilium.io/v2", "CiliumNetworkPolicy", "default", "old")
		if err != nil {
			t.Fatal(err)
		}
		change(live)
		_, err = policies.Update(ctx, live, metav1.UpdateOptions{})
		return err
	}
	if err := update(func(o *unstructured.Unstructured) { o.SetLabels(map[string]string{"a": "b"}) }); err != nil {
		t.Errorf("a label: %v", err)
	}
	err = update(func(o *unstructured.Unstructured) {
		o.Object["spec"].(map[string]any)["description"] = "changed"
	})
	if !apierrors.IsForbidden(err) {
		t.Errorf("another spec with the same rule: %v", err)
	}
	if err := c.Delete(ctx, "cilium.io/v2", "CiliumNetworkPolicy", "default", "old", 0); err != nil {
		t.Error(err)
	}
}
