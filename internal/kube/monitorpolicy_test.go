package kube

import (
	"context"
	"os"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// TestMonitorsAreGuarded: what would keep Prometheus from starting, or give its token away, is
// refused, and what components and developers need is not.
func TestMonitorsAreGuarded(t *testing.T) {
	c := connect(t)
	withControllers(t)
	ctx := t.Context()
	var guarded []*unstructured.Unstructured
	for _, file := range []string{"guard.yaml", "crds/scrapeconfigs.yaml", "crds/podmonitors.yaml", "crds/servicemonitors.yaml", "crds/probes.yaml"} {
		text, err := os.ReadFile("../../infra/k8s/base/prometheus-operator/" + file)
		if err != nil {
			t.Fatal(err)
		}
		objs, err := parse(text)
		if err != nil {
			t.Fatal(err)
		}
		guarded = append(guarded, objs...)
	}
	trusted := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{
		"name": "trusted-monitors", "labels": map[string]any{"orrery.dev/monitoring": "trusted"}}}}
	const component = "monitor-guard"
	t.Cleanup(func() {
		if err := c.Remove(context.Background(), component); err != nil {
			t.Error(err)
		}
	})
	if _, err := c.Apply(ctx, component, append(guarded, trusted)); err != nil {
		t.Fatal(err)
	}
	object := func(kind, namespace, spec string) *unstructured.Unstructured {
		o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "monitoring.coreos.com/v1", "kind": kind, "metadata": map[string]any{"name": "x", "namespace": namespace}}}
		if kind == "ScrapeConfig" {
			o.SetAPIVersion("monitoring.coreos.com/v1alpha1")
		}
		var content map[string]any
		if err := yaml.Unmarshal([]byte(spec), &content); err != nil {
			t.Fatal(err)
		}
		o.Object["spec"] = content
		return o
	}
	const consul = "consulSDConfigs: [{server: 'consul.example:8500'}]"
	eventually(t, func() error { return refused(c.DryRun(ctx, object("ScrapeConfig", "default", consul))) })
	for _, tt := range []struct {
		name, kind, namespace, spec string
		want                        string // "" is let in
	}{
		{"unknown discovery of anybody", "ScrapeConfig", "default", consul, "does not know such a discovery"},
		{"unknown discovery of those who may", "ScrapeConfig", "trusted-monitors", consul, "spec.consulSDConfigs: this Prometheus does not know"},
		{"files", "ScrapeConfig", "trusted-monitors", "fileSDConfigs: [{files: [/var/run/x.json]}]", "spec.fileSDConfigs"},
		{"anything from anywhere", "ScrapeConfig", "default", "staticConfigs: [{targets: ['10.96.0.1:443']}]", "write a PodMonitor or a ServiceMonitor"},
		{"nodes", "ScrapeConfig", "trusted-monitors", "{scheme: HTTPS, scrapeClass: cluster, kubernetesSDConfigs: [{role: Node}]}", ""},
		{"nodes in the clear", "ScrapeConfig", "trusted-monitors", "{scheme: HTTP, scrapeClass: cluster, kubernetesSDConfigs: [{role: Node}]}", "over https only"},
		{"a probe", "Probe", "default", "{prober: {url: 'x:1'}, targets: {staticConfig: {static: ['host.example']}}}", "a Probe reaches"},
		{"a developer's pods", "PodMonitor", "default", "{selector: {}, podMetricsEndpoints: [{port: http}]}", ""},
		{"a developer's pods with the token", "PodMonitor", "default", "{scrapeClass: cluster, selector: {}, podMetricsEndpoints: [{port: http}]}", "asks with the token of Prometheus"},
		{"over https too", "PodMonitor", "default", "{scrapeClass: cluster, selector: {}, podMetricsEndpoints: [{port: http, scheme: https}]}", "asks with the token of Prometheus"},
		{"a service", "ServiceMonitor", "trusted-monitors", "{scrapeClass: cluster, selector: {}, endpoints: [{port: http, scheme: https}]}", ""},
		{"a service in the clear", "ServiceMonitor", "trusted-monitors", "{scrapeClass: cluster, selector: {}, endpoints: [{port: a, scheme: https}, {port: b}]}", "over https only"},
		{"a service with the token", "ServiceMonitor", "default", "{scrapeClass: cluster, selector: {}, endpoints: [{port: a}]}", "asks with the token of Prometheus"},
		// As somebody else's cluster has it: nobody labelled it.
		{"kube-system with the token", "ServiceMonitor", "kube-system", "{scrapeClass: cluster, selector: {}, endpoints: [{port: a, scheme: https}]}", ""},
		{"kube-system in the clear", "ServiceMonitor", "kube-system", "{scrapeClass: cluster, selector: {}, endpoints: [{port: a}]}", "over https only"},
		{"what nobody follows there", "ScrapeConfig", "kube-system", "staticConfigs: [{targets: ['10.96.0.1:443']}]", "reaches whatever Prometheus reaches"},
		{"a namespace of a name like it", "ServiceMonitor", "kube-public", "{scrapeClass: cluster, selector: {}, endpoints: [{port: a, scheme: https}]}", "and kube-public is none"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := c.DryRun(ctx, object(tt.kind, tt.namespace, tt.spec))
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("%v\ndoes not say %q", err, tt.want)
			}
		})
	}
}
