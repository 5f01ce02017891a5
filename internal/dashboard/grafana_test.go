package dashboard

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/orrery-dev/orrery/internal/catalog"
)

// What Grafana would say only when it starts is said here, as far as its files tell it.

// provisioned is grafana/provisioning/datasources.yaml.
type provisioned struct {
	Datasources []struct {
		Name, UID, Type, URL string
		IsDefault            bool           `yaml:"isDefault"`
		JSONData             map[string]any `yaml:"jsonData"`
		SecureJSONData       map[string]any `yaml:"secureJsonData"`
	}
}

func readProvisioned(t *testing.T) (text string, p provisioned) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, catalog.BaseDir, "grafana/provisioning/datasources.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(data, &p); err != nil {
		t.Fatal(err)
	}
	return string(data), p
}

// walk calls f with every key of a document and its value.
func walk(v any, f func(key string, value any)) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			f(key, value)
			walk(value, f)
		}
	case []any:
		for _, value := range v {
			walk(value, f)
		}
	}
}

// TestDataSources: the data sources lead to services that there are and to each other, and are
// those that the dashboards ask.
func TestDataSources(t *testing.T) {
	text, file := readProvisioned(t)
	types, defaults := map[string]string{}, 0
	for _, d := range file.Datasources {
		if types[d.UID] != "" {
			t.Errorf("two data sources with UID %s", d.UID)
		}
		types[d.UID] = d.Type
		if d.IsDefault {
			defaults++
		}
	}
	for _, s := range []Source{Prometheus, Loki, Tempo} {
		if types[string(s)] != string(s) {
			t.Errorf("no data source with UID and type %s: %v", s, types)
		}
	}
	if defaults != 1 {
		t.Errorf("%d data sources are the default", defaults)
	}
	policy, err := os.ReadFile(filepath.Join(root, catalog.BaseDir, "grafana/policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	traces := false // exemplars and lines lead to them
	for _, d := range file.Datasources {
		u, err := url.Parse(d.URL)
		if err != nil || u.Scheme != "https" {
			t.Errorf("%s: URL %q: %v", d.UID, d.URL, err)
			continue
		}
		service, namespace, _ := strings.Cut(u.Hostname(), ".")
		if namespace != "observability.svc" || !hasService(t, service, u.Port()) {
			t.Errorf("%s: no component has a Service %s in observability with port %s", d.UID, service, u.Port())
		}
		if d.JSONData["tlsAuthWithCACert"] != true || d.SecureJSONData["tlsCACert"] == nil {
			t.Errorf("%s: nothing says who signed for it", d.UID)
		}
		if !strings.Contains(string(policy), "port: "+u.Port()+",") {
			t.Errorf("grafana/policy.yaml lets nothing through to port %s of %s", u.Port(), d.UID)
		}
		walk(d.JSONData, func(key string, value any) {
			if strings.HasSuffix(strings.ToLower(key), "uid") && types[fmt.Sprint(value)] == "" {
				t.Errorf("%s: %s is %v, which is no data source", d.UID, key, value)
			}
			if key == "exemplarTraceIdDestinations" {
				for _, to := range value.([]any) {
					to := to.(map[string]any)
					// The label that OpenTelemetry's SDKs and Prometheus' own client give exemplars.
					traces = traces || to["name"] == "trace_id" && types[fmt.Sprint(to["datasourceUid"])] == "tempo"
				}
			}
			if key == "matcherRegex" {
				if _, err := regexp.Compile(fmt.Sprint(value)); err != nil {
					t.Errorf("%s: %v", d.UID, err)
				}
			}
		})
	}
	if !traces {
		t.Error("the exemplars of Prometheus lead to no trace")
	}
	// Grafana replaces $NAME in these files by the environment; what is for later has two.
	// $__file is its own, and means what it says.
	unread := strings.ReplaceAll(text, "$__file{", "")
	if single := regexp.MustCompile(`(^|[^$])\$[A-Za-z_{]`).FindAllString(unread, -1); len(single) > 0 {
		t.Errorf("datasources.yaml: a single $ is replaced by Grafana when it starts: %q", single)
	}
}

// hasService looks for a Service in the manifests of the components.
func hasService(t *testing.T, name, port string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, catalog.BaseDir, "*/*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatal("no manifests", err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for doc := range strings.SplitSeq(string(data), "\n---") {
			var o struct {
				Kind     string
				Metadata struct{ Name string }
				Spec     yaml.Node
			}
			if yaml.Unmarshal([]byte(doc), &o) != nil || o.Kind != "Service" || o.Metadata.Name != name {
				continue
			}
			var spec struct{ Ports []struct{ Port int } }
			if err := o.Spec.Decode(&spec); err != nil {
				t.Fatalf("%s: %v", f, err)
			}
			return slices.ContainsFunc(spec.Ports, func(p struct{ Port int }) bool { return fmt.Sprint(p.Port) == port })
		}
	}
	return false
}

var (
	grafanaUID      = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,40}$`)
	grafanaVariable = regexp.MustCompile(`\$\{?([a-zA-Z_]\w*)`)
	grafanaOwns     = []string{"__rate_interval", "__interval", "__range", "__from", "__to", "__value", "__trace"}
	// Units of Grafana's own list (packages/grafana-data, valueFormats); "suffix: x" is free.
	grafanaUnits = []string{"", "short", "percentunit", "bytes", "binBps", "s", "ops", "dateTimeAsIso"}
)

// TestGrafanaLoads holds every dashboard file to what Grafana's own model asks of it.
func TestGrafanaLoads(t *testing.T) {
	_, file := readProvisioned(t)
	types := map[string]string{}
	for _, d := range file.Datasources {
		types[d.UID] = d.Type
	}
	files, err := filepath.Glob(filepath.Join(root, catalog.BaseDir, "*/dashboards/*.json"))
	if err != nil || len(files) == 0 {
		t.Fatal("no dashboards", err)
	}
	uids, titles, names, exemplars := map[string]string{}, map[string]string{}, map[string]string{}, 0
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var g struct {
			UID, Title    string
			SchemaVersion int
			Panels        []struct {
				ID          int
				Type, Title string
				Datasource  map[string]string
				GridPos     struct{ X, Y, W, H int }
				FieldConfig struct{ Defaults struct{ Unit string } }
				Targets     []map[string]any
			}
			Templating struct {
				List []struct{ Name, Type string }
			}
		}
		if err := json.Unmarshal(data, &g); err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		complain := func(format string, a ...any) {
			t.Helper()
			t.Errorf("%s: %s", filepath.Base(f), fmt.Sprintf(format, a...))
		}
		// In one folder of Grafana, and in one of its pod, a name may stand once.
		for _, once := range []struct {
			what, value string
			seen        map[string]string
		}{{"UID", g.UID, uids}, {"title", g.Title, titles}, {"file name", filepath.Base(f), names}} {
			if other := once.seen[once.value]; other != "" || once.value == "" {
				complain("its %s %q is that of %s too", once.what, once.value, other)
			}
			once.seen[once.value] = f
		}
		if !grafanaUID.MatchString(g.UID) {
			complain("Grafana takes no UID like %q", g.UID)
		}
		known := slices.Clone(grafanaOwns)
		for _, v := range g.Templating.List {
			known = append(known, v.Name)
			if v.Type != "query" && v.Type != "textbox" {
				complain("variable %s has type %q", v.Name, v.Type)
			}
		}
		ids := map[int]bool{}
		for _, p := range g.Panels {
			if ids[p.ID] || p.ID <= 0 {
				complain("panel %q has number %d, as another has", p.Title, p.ID)
			}
			ids[p.ID] = true
			if p.GridPos.X < 0 || p.GridPos.W < 1 || p.GridPos.H < 1 || p.GridPos.X+p.GridPos.W > 24 {
				complain("panel %q stands at %+v", p.Title, p.GridPos)
			}
			if p.Type == "row" {
				continue
			}
			if !slices.Contains([]string{"timeseries", "stat", "bargauge", "table", "logs"}, p.Type) {
				complain("panel %q has type %q", p.Title, p.Type)
			}
			if u := p.FieldConfig.Defaults.Unit; !slices.Contains(grafanaUnits, u) && !strings.HasPrefix(u, "suffix:") {
				complain("panel %q has unit %q", p.Title, u)
			}
			refs := map[any]bool{}
			for _, q := range p.Targets {
				if refs[q["refId"]] {
					complain("panel %q has two queries %v", p.Title, q["refId"])
				}
				refs[q["refId"]] = true
				if q["exemplar"] == true {
					exemplars++
					if p.Type != "timeseries" {
						complain("panel %q is a %s, which draws no exemplars", p.Title, p.Type)
					}
				}
				text, _ := q["expr"].(string)
				if text == "" {
					text, _ = q["query"].(string)
				}
				if text == "" {
					complain("a query of panel %q asks nothing", p.Title)
				}
				for _, m := range grafanaVariable.FindAllStringSubmatch(text, -1) {
					if !slices.Contains(known, m[1]) {
						complain("panel %q asks for $%s, which is no variable", p.Title, m[1])
					}
				}
			}
		}
		var all any
		_ = json.Unmarshal(data, &all)
		walk(all, func(key string, value any) {
			source, ok := value.(map[string]any)
			if key == "datasource" && (!ok || types[fmt.Sprint(source["uid"])] != source["type"]) {
				complain("data source %v is not provisioned", value)
			}
		})
	}
	if exemplars == 0 {
		t.Error("no panel shows exemplars")
	}
	ini, err := os.ReadFile(filepath.Join(root, catalog.BaseDir, "grafana/grafana.ini"))
	if err != nil {
		t.Fatal(err)
	}
	home := regexp.MustCompile(`default_home_dashboard_path = \S*/(\S+)`).FindStringSubmatch(string(ini))
	if home == nil || names[home[1]] == "" {
		t.Errorf("grafana.ini: the home dashboard %v is no file", home)
	}
}
