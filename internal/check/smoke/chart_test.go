package smoke

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

const (
	natsChart    = "../../../infra/k8s/base/nats/chart"
	natsOverlays = "../../../infra/k8s/overlays"
)

// renderNATS renders the chart of the nats component as its kind/name → object. overlay
// names a values file; values win over it.
func renderNATS(t *testing.T, overlay string, values map[string]any) (map[string]*unstructured.Unstructured, error) {
	t.Helper()
	chart, err := loader.LoadDir(natsChart)
	if err != nil {
		t.Fatal(err)
	}
	merged := map[string]any{}
	if overlay != "" {
		if merged, err = chartutil.ReadValuesFile(filepath.Join(natsOverlays, overlay, "nats", "values.yaml")); err != nil {
			t.Fatal(err)
		}
	}
	merged = chartutil.CoalesceTables(maps.Clone(values), merged)
	capabilities := chartutil.DefaultCapabilities.Copy()
	capabilities.KubeVersion = chartutil.KubeVersion{Version: "v1.37.2", Major: "1", Minor: "37"}
	in, err := chartutil.ToRenderValues(chart, merged, chartutil.ReleaseOptions{Name: "nats", Namespace: "messaging", IsInstall: true}, capabilities)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(chart, in)
	if err != nil {
		return nil, err
	}
	objects := map[string]*unstructured.Unstructured{}
	for name, text := range files {
		for _, doc := range strings.Split(text, "\n---\n") {
			obj := &unstructured.Unstructured{}
			if err := yaml.UnmarshalStrict([]byte(doc), &obj.Object); err != nil {
				t.Fatalf("%s: %v\n%s", name, err, doc)
			}
			if len(obj.Object) == 0 {
				continue
			}
			objects[obj.GetKind()+"/"+obj.GetNamespace()+"/"+obj.GetName()] = obj
		}
	}
	if dir := os.Getenv("ORRERY_TEST_RENDER_DIR"); dir != "" {
		for key, obj := range objects {
			raw, _ := yaml.Marshal(obj.Object)
			os.WriteFile(filepath.Join(dir, overlay+"-"+strings.ReplaceAll(key, "/", "-")+".yaml"), raw, 0o644)
		}
	}
	return objects, nil
}

func TestNATSChart(t *testing.T) {
	for _, test := range []struct {
		name, overlay string
		values        map[string]any
		config        []string // parts of nats.conf
		absent        []string // parts that are not there
		when          string   // whenUnsatisfiable of the zone spread
		objects       []string
		err           string
	}{
		{
			name: "local", overlay: "local", when: "DoNotSchedule",
			config:  []string{"sync_interval: always", `unique_tag: "zone"`, "server_tags: [$SERVER_TAG]", `include "../nats-routes/authorization.conf"`, `include "../nats-routes/routes.conf"`, "max_memory_store: 268435456", "verify: true", "no_advertise: true", `lame_duck_grace_period: "1s"`},
			absent:  []string{"password"},
			objects: []string{"StatefulSet/messaging/nats", "Service/messaging/nats", "Service/messaging/nats-headless", "Service/messaging/nats-monitor", "PodDisruptionBudget/messaging/nats", "NetworkPolicy/messaging/nats", "NetworkPolicy/apps/allow-nats", "ServiceMonitor/messaging/nats", "Certificate/messaging/nats"},
		},
		{
			name: "two zones, no fsync", overlay: "local", when: "ScheduleAnyway",
			values: map[string]any{"orrery": map[string]any{"zones": 2, "durability": "fast"}},
			absent: []string{"sync_interval", "unique_tag", "server_tags"},
		},
		{
			name: "one server", overlay: "local", when: "ScheduleAnyway",
			values: map[string]any{"replicas": 1, "orrery": map[string]any{"zones": 1}},
			absent: []string{"routes.conf", "password"},
		},
		{
			name: "prod", overlay: "prod", when: "DoNotSchedule",
			values:  map[string]any{"orrery": map[string]any{"zones": 1}}, // required all the same
			config:  []string{"verify: true", "no_advertise: true", `lame_duck_duration: "120s"`, `unique_tag: "zone"`},
			objects: []string{"Certificate/messaging/nats"},
		},
		{name: "memory store too big", values: map[string]any{"jetstream": map[string]any{"memoryStoreMiB": 400}}, err: "1.5 ×"},
		{name: "more servers than routes", values: map[string]any{"replicas": 5}, err: "nats-routes"},
		{name: "even replicas", values: map[string]any{"replicas": 2}, err: "replicas"},
		{name: "unknown value", values: map[string]any{"replica": 3}, err: "replica"},
		{name: "short lame duck", values: map[string]any{"lameDuck": map[string]any{"durationSeconds": 5}}, err: "durationSeconds"},
		{name: "no issuer", values: map[string]any{"tls": map[string]any{"certManager": map[string]any{"issuer": map[string]any{"name": ""}}}}, err: "issuer"},
	} {
		t.Run(test.name, func(t *testing.T) {
			objects, err := renderNATS(t, test.overlay, test.values)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error %v, want one that says %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			config := natsConf(t, objects)
			for _, part := range test.config {
				if !strings.Contains(config, part) {
					t.Errorf("nats.conf lacks %q:\n%s", part, config)
				}
			}
			for _, part := range test.absent {
				if strings.Contains(config, part) {
					t.Errorf("nats.conf holds %q:\n%s", part, config)
				}
			}
			for _, key := range test.objects {
				if objects[key] == nil {
					t.Errorf("no %s", key)
				}
			}
			spreads, _, _ := unstructured.NestedSlice(objects["StatefulSet/messaging/nats"].Object, "spec", "template", "spec", "topologySpreadConstraints")
			if got := spreads[0].(map[string]any)["whenUnsatisfiable"]; got != test.when {
				t.Errorf("spread over zones: %v, want %s", got, test.when)
			}
		})
	}
}

func natsConf(t *testing.T, objects map[string]*unstructured.Unstructured) string {
	t.Helper()
	config, ok, err := unstructured.NestedString(objects["ConfigMap/messaging/nats"].Object, "data", "nats.conf")
	if !ok || err != nil {
		t.Fatalf("no nats.conf in the ConfigMap: %v", err)
	}
	return config
}
