package smoke

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// TestEveryNamespaceIsGuarded: each that there is, Kubernetes' own too, has a pod-security level
// that is enforced.
func TestEveryNamespaceIsGuarded(t *testing.T) {
	for overlay, weak := range map[string]map[string]string{
		// Cilium's agents need their node where they are pods.
		"local": {
			"cilium": "privileged", "observability-agents": "privileged", "local-path-storage": "privileged", "scylladb": "privileged", "default": "baseline",
		},
		// In kube-system, for clusters that somebody else made.
		"prod": {"observability-agents": "privileged", "kube-system": "privileged", "scylladb": "privileged", "default": "baseline"},
	} {
		_, objs := rendered(t, overlay)
		levels := map[string]string{}
		for _, o := range objs {
			if o.GetKind() == "Namespace" {
				levels[o.GetName()] = o.GetLabels()[enforceLabel]
			}
		}
		for _, name := range []string{"default", "kube-system", "kube-public", "kube-node-lease", "apps", "platform"} {
			if _, ok := levels[name]; !ok {
				t.Errorf("%s: nothing is said of namespace %s: it takes privileged pods", overlay, name)
			}
		}
		for name, level := range levels {
			want := "restricted"
			if weak[name] != "" {
				want = weak[name]
			}
			if level != want {
				t.Errorf("%s: namespace %s enforces %q, want %s", overlay, name, level, want)
			}
		}
	}
}

// one is the only object of a kind and name.
func one(t *testing.T, objs []*unstructured.Unstructured, kind, name string) *unstructured.Unstructured {
	t.Helper()
	i := slices.IndexFunc(objs, func(o *unstructured.Unstructured) bool { return o.GetKind() == kind && o.GetName() == name })
	if i < 0 {
		t.Fatalf("there is no %s %s", kind, name)
	}
	return objs[i]
}

// configOf is a file, in YAML, of the ConfigMap whose name begins with prefix.
func configOf(t *testing.T, objs []*unstructured.Unstructured, prefix, file string) map[string]any {
	t.Helper()
	for _, o := range objs {
		if o.GetKind() != "ConfigMap" || !strings.HasPrefix(o.GetName(), prefix) {
			continue
		}
		if raw, ok, _ := unstructured.NestedString(o.Object, "data", file); ok {
			var content map[string]any
			if err := yaml.Unmarshal([]byte(raw), &content); err != nil {
				t.Fatalf("%s of %s: %v", file, o.GetName(), err)
			}
			return content
		}
	}
	t.Fatalf("no ConfigMap %s… has %s", prefix, file)
	return nil
}

// TestTelemetryCannotBeControlled: what would reload, end or empty the stores is off, whoever asks.
func TestTelemetryCannotBeControlled(t *testing.T) {
	for _, overlay := range []string{"local", "prod"} {
		_, objs := rendered(t, overlay)
		prometheus := one(t, objs, "Prometheus", "prometheus")
		if got := text(prometheus, "spec", "reloadStrategy"); got != "ProcessSignal" {
			t.Errorf("%s: reloadStrategy %q: the operator opens /-/reload and /-/quit for it", overlay, got)
		}
		for _, off := range []string{"enableRemoteWriteReceiver", "enableAdminAPI"} {
			if on, _, _ := unstructured.NestedBool(prometheus.Object, "spec", off); on {
				t.Errorf("%s: Prometheus has %s", overlay, off)
			}
		}
		// The kernel keeps 15 bytes of a program's name, and the reloader compares those.
		if text, _ := yaml.Marshal(prometheus.Object); !strings.Contains(string(text), "--process-executable-name="+"prometheus-server"[:15]+"\n") {
			t.Errorf("%s: the reloader looks for another process than prometheus-server", overlay)
		}
		loki := configOf(t, objs, "loki", "loki.yaml")
		if got := get(loki, "limits_config", "deletion_mode"); got != "disabled" {
			t.Errorf("%s: Loki's deletion_mode is %v: whoever reaches it deletes lines", overlay, got)
		}
	}
}

// TestTelemetryAsksWhoItIs: a network may have no policies. What writes, flushes and shuts down lets in
// who has a certificate of the platform; those who need it have one, and services in apps have none.
func TestTelemetryAsksWhoItIs(t *testing.T) {
	const asks = "RequireAndVerifyClientCert"
	for _, overlay := range []string{"local", "prod"} {
		_, objs := rendered(t, overlay)
		stores := map[string]map[string]any{"loki": configOf(t, objs, "loki", "loki.yaml"), "tempo": configOf(t, objs, "tempo", "tempo.yaml")}
		for name, config := range stores {
			if got := get(config, "server", "http_tls_config", "client_auth_type"); got != asks {
				t.Errorf("%s: %s lets in whoever asks: %v", overlay, name, got)
			}
			// Its own monitor, and probes, which have no certificate.
			monitor, _ := yaml.Marshal(one(t, objs, "ServiceMonitor", name).Object["spec"])
			if !strings.Contains(string(monitor), "keySecret:") {
				t.Errorf("%s: Prometheus has no certificate for %s: %s", overlay, name, monitor)
			}
			set := one(t, objs, "StatefulSet", name)
			containers, _ := get(set.Object, "spec", "template", "spec", "containers").([]any)
			for _, c := range containers {
				for _, probe := range []string{"livenessProbe", "readinessProbe", "startupProbe"} {
					if scheme := get(c.(map[string]any), probe, "httpGet", "scheme"); scheme == "HTTPS" {
						t.Errorf("%s: the %s of %s has no certificate to show", overlay, probe, name)
					}
				}
			}
			// The server for probes answers pods only if it has nothing but /ready.
			if at, loopback := get(config, "internal_server", "http_listen_address"), name == "loki"; loopback != (at == "127.0.0.1") {
				t.Errorf("%s: the server for probes of %s listens on %v", overlay, name, at)
			}
			if at := get(config, "internal_server", "grpc_listen_address"); at != "127.0.0.1" {
				t.Errorf("%s: %s serves gRPC to everybody on %v", overlay, name, at)
			}
		}
		if got := get(stores["tempo"], "distributor", "receivers", "otlp", "protocols", "http", "tls", "client_ca_file"); got == nil {
			t.Errorf("%s: Tempo takes spans of everybody", overlay)
		}
		for file, exporters := range map[string][]string{"gateway.yaml": {"loki", "tempo"}, "agent.yaml": {"loki"}} {
			config := configOf(t, objs, "otel-"+strings.TrimSuffix(file, ".yaml"), file)
			for _, to := range exporters {
				if got := get(config, "exporters", "otlp_http/"+to, "tls", "key_file"); got == nil {
					t.Errorf("%s: %s has no certificate for %s", overlay, file, to)
				}
			}
		}
		clients := map[string]bool{"loki": false, "tempo": false, "otel-agent": false, "otel-gateway": false, "grafana": false}
		for _, o := range objs {
			usages, _, _ := unstructured.NestedStringSlice(o.Object, "spec", "usages")
			if o.GetKind() != "Certificate" || !slices.Contains(usages, "client auth") {
				continue
			}
			if o.GetNamespace() == "apps" {
				t.Errorf("%s: Certificate %s of apps is one of a client: Loki and Tempo take it", overlay, o.GetName())
			}
			clients[o.GetName()] = true
		}
		for name, is := range clients {
			if !is {
				t.Errorf("%s: Certificate %s is not one of a client", overlay, name)
			}
		}
	}
}

// TestMonitorsFitThePolicy: the policy of component prometheus-operator lets through what Prometheus
// can discover with, and no more, and what the catalogue itself declares keeps to it.
func TestMonitorsFitThePolicy(t *testing.T) {
	guard, err := os.ReadFile("../../../infra/k8s/base/prometheus-operator/guard.yaml")
	if err != nil {
		t.Fatal(err)
	}
	components, objs := rendered(t, "local")
	can := []string{"httpSDConfigs"} // in every Prometheus, as are files, which nobody mounts
	for _, c := range components {
		for _, image := range c.Images {
			for _, b := range image.Binaries {
				for _, tag := range b.Tags {
					if name, ok := strings.CutSuffix(strings.TrimPrefix(tag, "enable_"), "_sd"); ok && c.Name == "prometheus" && name != "remove_all" {
						can = append(can, name+"SDConfigs")
					}
				}
			}
		}
	}
	kinds := one(t, objs, "CustomResourceDefinition", "scrapeconfigs.monitoring.coreos.com")
	versions, _, _ := unstructured.NestedSlice(kinds.Object, "spec", "versions")
	fields := get(versions[0].(map[string]any), "schema", "openAPIV3Schema", "properties", "spec", "properties").(map[string]any)
	named := regexp.MustCompile(`'(\w+SDConfigs)'`).FindAllStringSubmatch(string(guard), -1)
	if len(named) != len(can) {
		t.Errorf("the policy lets through %q, and Prometheus knows %q", named, can)
	}
	for _, n := range named {
		if !slices.ContainsFunc(can, func(c string) bool { return strings.EqualFold(c, n[1]) }) {
			t.Errorf("the policy lets through %s, with which this Prometheus does not start", n[1])
		}
		if fields[n[1]] == nil {
			t.Errorf("a ScrapeConfig has no field %s", n[1])
		}
	}
	for _, overlay := range []string{"local", "prod"} {
		_, objs := rendered(t, overlay)
		prometheus := one(t, objs, "Prometheus", "prometheus")
		classes, _, _ := unstructured.NestedSlice(prometheus.Object, "spec", "scrapeClasses")
		for _, c := range classes {
			if c := c.(map[string]any); c["name"] == "default" && (c["authorization"] != nil || c["tlsConfig"] != nil) {
				t.Errorf("%s: the scrape class that the policy takes for harmless has credentials", overlay)
			}
		}
		trusted := map[string]bool{}
		for _, o := range objs {
			trusted[o.GetName()] = trusted[o.GetName()] || o.GetKind() == "Namespace" && o.GetLabels()["orrery.dev/monitoring"] == "trusted"
		}
		for _, field := range []string{"scrapeConfigNamespaceSelector", "probeNamespaceSelector"} {
			follows, _, _ := unstructured.NestedStringMap(prometheus.Object, "spec", field, "matchLabels")
			if selector := labels.SelectorFromSet(follows); selector.Matches(labels.Set{}) || !selector.Matches(labels.Set{"orrery.dev/monitoring": "trusted"}) {
				t.Errorf("%s: %s is %v", overlay, field, follows)
			}
		}
		for _, o := range objs {
			schemes, bound := schemesOf(o)
			class := text(o, "spec", "scrapeClass")
			switch {
			case schemes == nil:
			case (bound || class != "") && !trusted[o.GetNamespace()]:
				t.Errorf("%s: %s %s stands in %s, which is not trusted", overlay, o.GetKind(), o.GetName(), o.GetNamespace())
			case class != "" && slices.ContainsFunc(schemes, func(s string) bool { return !strings.EqualFold(s, "https") }):
				t.Errorf("%s: %s %s sends a token over %q", overlay, o.GetKind(), o.GetName(), schemes)
			}
		}
	}
}

// schemesOf are those with which a monitor asks, nil for another kind; bound are kinds that reach
// beyond a namespace.
func schemesOf(o *unstructured.Unstructured) (schemes []string, bound bool) {
	switch o.GetKind() {
	case "ScrapeConfig":
		return []string{text(o, "spec", "scheme")}, true
	case "Probe":
		return []string{text(o, "spec", "prober", "scheme")}, true
	case "ServiceMonitor", "PodMonitor":
		for _, field := range []string{"endpoints", "podMetricsEndpoints"} {
			list, _, _ := unstructured.NestedSlice(o.Object, "spec", field)
			for _, e := range list {
				scheme, _ := e.(map[string]any)["scheme"].(string)
				schemes = append(schemes, scheme)
			}
		}
	}
	return schemes, false
}

// TestWorkloadsAreWarnedOf: every kind that makes pods is told of what the image policy will refuse,
// and is let in.
func TestWorkloadsAreWarnedOf(t *testing.T) {
	_, objs := rendered(t, "local")
	for _, name := range []string{"orrery-images-workloads", "orrery-images-warned"} {
		rules, _, _ := unstructured.NestedSlice(one(t, objs, "ValidatingAdmissionPolicy", name).Object, "spec", "matchConstraints", "resourceRules")
		var kinds []string
		for _, r := range rules {
			list, _, _ := unstructured.NestedStringSlice(r.(map[string]any), "resources")
			kinds = append(kinds, list...)
		}
		for _, kind := range []string{"deployments", "statefulsets", "daemonsets", "replicasets", "jobs", "cronjobs", "replicationcontrollers"} {
			if !slices.Contains(kinds, kind) {
				t.Errorf("%s says nothing of %s", name, kind)
			}
		}
		actions, _, _ := unstructured.NestedStringSlice(one(t, objs, "ValidatingAdmissionPolicyBinding", name).Object, "spec", "validationActions")
		if !slices.Equal(actions, []string{"Warn", "Audit"}) {
			t.Errorf("%s does %q", name, actions)
		}
	}
}

// TestNobodySharesAUser: what a process may read of another goes by its user, so each workload has
// one of its own, of a range that neither Debian, systemd nor people hand out.
func TestNobodySharesAUser(t *testing.T) {
	for _, overlay := range []string{"local", "prod"} {
		_, objs := rendered(t, overlay)
		users := map[any]string{}
		for _, w := range workloads(t, objs) {
			for _, field := range []string{"hostPID", "hostIPC"} {
				if get(w.spec, field) == true {
					t.Errorf("%s: %s has %s", overlay, w.name, field)
				}
			}
			user := get(w.spec, "securityContext", "runAsUser")
			switch w.name {
			case "DaemonSet local-path": // root, see its comment
				continue
			case "Deployment grafana": // not our image: the user that it is made for
				if user == int64(472) {
					continue
				}
			}
			if n, ok := user.(int64); !ok || n < 60578 || n > 61183 {
				t.Errorf("%s: %s runs as user %v, want one of 60578 to 61183", overlay, w.name, user)
			}
			if other := users[user]; other != "" {
				t.Errorf("%s: %s and %s are both user %v", overlay, other, w.name, user)
			}
			users[user] = w.name
			group := get(w.spec, "securityContext", "runAsGroup")
			if fs := get(w.spec, "securityContext", "fsGroup"); fs != nil && fs != group || group != user && w.name != "DaemonSet otel-agent" {
				t.Errorf("%s: %s is user %v of group %v, its volumes of %v", overlay, w.name, user, group, fs)
			}
		}
	}
}

// TestProbesAskLittle: kubelets read 10 KiB of an answer and break off the rest.
func TestProbesAskLittle(t *testing.T) {
	for _, overlay := range []string{"local", "prod"} {
		_, objs := rendered(t, overlay)
		for _, w := range workloads(t, objs) {
			containers, _ := w.spec["containers"].([]any)
			for _, c := range containers {
				for _, probe := range []string{"livenessProbe", "readinessProbe", "startupProbe"} {
					if path, _ := get(c.(map[string]any), probe, "httpGet", "path").(string); strings.HasPrefix(path, "/metrics") {
						t.Errorf("%s: the %s of %s asks %s", overlay, probe, w.name, path)
					}
				}
			}
		}
	}
}

// TestBadMetricsStandAlone: neither a sum of deltas nor anything else in a request takes the rest of
// it along.
func TestBadMetricsStandAlone(t *testing.T) {
	for _, overlay := range []string{"local", "prod"} {
		_, objs := rendered(t, overlay)
		if features, _, _ := unstructured.NestedStringSlice(one(t, objs, "Prometheus", "prometheus").Object, "spec", "enableFeatures"); !slices.Contains(features, "otlp-deltatocumulative") {
			t.Errorf("%s: Prometheus refuses deltas, and with them the whole request: %q", overlay, features)
		}
		gateway := configOf(t, objs, "otel-gateway", "gateway.yaml")
		exporter, _ := get(gateway, "exporters", "otlp_http/prometheus").(map[string]any)
		raw, _ := yaml.Marshal(exporter["middlewares"])
		extensions, _ := get(gateway, "service", "extensions").([]any)
		if !strings.Contains(string(raw), "id: split") || !slices.Contains(extensions, any("split")) {
			t.Errorf("%s: one metric that Prometheus refuses takes the rest of its request along: middlewares %s of %v", overlay, raw, extensions)
		}
		if exporter["compression"] != "none" {
			t.Errorf("%s: the extension split reads requests that are not compressed, and these are: %v", overlay, exporter["compression"])
		}
	}
}

// TestLinesOutliveAnOutage: what kubelets set aside is read, also compressed, and the queue is made
// for the outage that its comment states.
func TestLinesOutliveAnOutage(t *testing.T) {
	const (
		outage = 10 * 60        // seconds
		rate   = 200 * 4 * 1000 // bytes a second
	)
	for _, overlay := range []string{"local", "prod"} {
		_, objs := rendered(t, overlay)
		agent := configOf(t, objs, "otel-agent", "agent.yaml")
		matches := func(field, path string) bool {
			patterns, _ := get(agent, "receivers", "file_log", field).([]any)
			return slices.ContainsFunc(patterns, func(p any) bool {
				ok, err := filepath.Match(p.(string), path)
				return err == nil && ok
			})
		}
		for path, want := range map[string]bool{
			"/var/log/pods/apps_a_1-2/c/0.log":                                           true,
			"/var/log/pods/apps_a_1-2/c/0.log.20261129-214500":                           true,
			"/var/log/pods/apps_a_1-2/c/0.log.20261129-214400.gz":                        true,
			"/var/log/pods/apps_a_1-2/c/0.log.20261129-214400.tmp":                       false,
			"/var/log/pods/observability-agents_otel-agent-x_1/c/0.log":                  false,
			"/var/log/pods/observability-agents_otel-agent-x_1/c/0.log.20261129-214400":  false,
			"/var/log/pods/observability-agents_node-exporter-x_1/c/0.log.20261129-2144": true,
		} {
			if read := matches("include", path) && !matches("exclude", path); read != want {
				t.Errorf("%s: %s is read: %t, want %t", overlay, path, read, want)
			}
		}
		// What is deleted unread is counted, of the same files.
		operators, _ := get(agent, "receivers", "file_log", "operators").([]any)
		first, _ := operators[0].(map[string]any)
		if first["type"] != "unread" || get(agent, "receivers", "file_log", "include_file_record_offset") != true {
			t.Errorf("%s: what is lost is not counted: the first operator is %v", overlay, first)
		}
		for _, field := range []string{"include", "exclude"} {
			if !reflect.DeepEqual(first[field], get(agent, "receivers", "file_log", field)) {
				t.Errorf("%s: other files are read than are watched: %s %v", overlay, field, first[field])
			}
		}
		if got := get(agent, "receivers", "file_log", "compression"); got != "auto" {
			t.Errorf("%s: compressed files are read as text: compression %v", overlay, got)
		}
		if size, _ := get(agent, "exporters", "otlp_http/loki", "sending_queue", "queue_size").(float64); size < outage*rate {
			t.Errorf("%s: the queue has %.0f bytes, less than %d seconds of %d bytes", overlay, size, outage, rate)
		}
	}
}

// secretsInEnvironment are those that a program takes from nowhere else.
var secretsInEnvironment = []string{
	// Which object store, and not how to get in.
	"loki-objects/endpoint", "loki-objects/region", "loki-objects/bucket", "tempo-objects/endpoint", "tempo-objects/region", "tempo-objects/bucket",
	// Loki and Tempo expand the environment in their configuration, and nothing else.
	"loki-objects/accessKey", "loki-objects/secretKey", "tempo-objects/accessKey", "tempo-objects/secretKey",
}

// TestNoPasswordInTheEnvironment: it is in /proc for every process of the same user, and in every
// child and crash report. Public keys are no secrets.
func TestNoPasswordInTheEnvironment(t *testing.T) {
	for _, overlay := range []string{"local", "prod"} {
		_, objs := rendered(t, overlay)
		for _, w := range workloads(t, objs) {
			containers, _ := w.spec["containers"].([]any)
			for _, c := range containers {
				env, _ := get(c.(map[string]any), "env").([]any)
				for _, e := range env {
					ref, _ := get(e.(map[string]any), "valueFrom", "secretKeyRef").(map[string]any)
					name := fmt.Sprint(ref["name"], "/", ref["key"])
					if ref != nil && !strings.HasSuffix(name, ".pub") && !slices.Contains(secretsInEnvironment, name) {
						t.Errorf("%s: %s has %s in its environment", overlay, w.name, name)
					}
				}
				if from := get(c.(map[string]any), "envFrom"); from != nil {
					t.Errorf("%s: %s takes its environment from %v", overlay, w.name, from)
				}
			}
		}
	}
}
