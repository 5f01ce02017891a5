package dashboard

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// Colours of the states, told apart by people who see red and green alike; the console has
// the same.
var colours = map[State]string{OK: "#2a9d8f", Warning: "#e9a23b", Critical: "#d1495b", Neutral: "#7d8597"}

// GrafanaUID is the address of a dashboard in Grafana.
func (d Dashboard) GrafanaUID() string { return "orrery-" + d.Name }

// Grafana is the dashboard as a file that Grafana's provisioning reads (its classic JSON
// model, schema version 39). The data sources are those that infra/k8s/base/grafana
// provisions, with the sources' names as UIDs. Equal dashboards give equal bytes.
func (d Dashboard) Grafana() ([]byte, error) {
	g := object{
		"uid": d.GrafanaUID(), "title": d.Title, "description": d.Description,
		"tags": []string{"orrery", d.Component}, "schemaVersion": 39, "editable": false,
		"graphTooltip": 1, "refresh": "15s", "timezone": "browser",
		"time":        object{"from": "now-" + grafanaDuration(d), "to": "now"},
		"templating":  object{"list": d.grafanaVariables()},
		"annotations": object{"list": []any{}},
		"panels":      d.grafanaPanels(),
		// What a person sees first in the file.
		"__comment": "generated from " + d.Name + ".yaml by go test ./internal/dashboard -update; do not edit",
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(g); err != nil {
		return nil, fmt.Errorf("dashboard %s: %w", d.Name, err)
	}
	return b.Bytes(), nil
}

type object map[string]any

func grafanaDuration(d Dashboard) string { return strconv.Itoa(int(d.Span()/time.Minute)) + "m" }

func datasource(s Source) object { return object{"type": string(s), "uid": string(s)} }

func (d Dashboard) grafanaVariables() []any {
	list := []any{}
	for _, v := range d.Variables {
		if v.Text {
			list = append(list, object{
				"name": v.Name, "label": v.Title, "type": "textbox", "query": v.Default,
				"current": object{"text": v.Default, "value": v.Default},
			})
			continue
		}
		source := v.Source
		if source == "" {
			source = Prometheus
		}
		query := object{"query": fmt.Sprintf("label_values(%s, %s)", v.Match, v.Label), "refId": v.Name}
		if v.Match == "" {
			query["query"] = fmt.Sprintf("label_values(%s)", v.Label)
		}
		if source == Loki {
			query = object{"type": 1, "label": v.Label, "stream": v.Match, "refId": v.Name}
		}
		current := object{"text": "All", "value": "$__all"}
		if v.Default != "" {
			current = object{"text": v.Default, "value": v.Default}
		}
		list = append(list, object{
			"name": v.Name, "label": v.Title, "type": "query", "datasource": datasource(source), "query": query,
			"includeAll": true, "allValue": cmp.Or(v.All, ".*"), "multi": false, "refresh": 2, "sort": 1, "current": current,
		})
	}
	return list
}

func (d Dashboard) grafanaPanels() []any {
	panels := []any{}
	id, y := 1, 0
	for _, r := range d.Rows {
		panels = append(panels, object{"id": id, "type": "row", "title": r.Title, "collapsed": false, "gridPos": object{"x": 0, "y": y, "w": 24, "h": 1}})
		id++
		y++
		x, tallest := 0, 0
		for _, p := range r.Panels {
			w, h := 2*p.WidthOr(), p.HeightOr()+1
			if x+w > 24 {
				x, y, tallest = 0, y+tallest, 0
			}
			panel := d.grafanaPanel(p)
			panel["id"], panel["gridPos"] = id, object{"x": x, "y": y, "w": w, "h": h}
			panels = append(panels, panel)
			id++
			x += w
			tallest = max(tallest, h)
		}
		y += tallest
	}
	return panels
}

var grafanaType = map[Kind]string{TimeSeries: "timeseries", Stat: "stat", Bar: "bargauge", Table: "table", Logs: "logs", Trace: "table", Topology: "stat"}

var grafanaUnit = map[Unit]string{
	Count: "short", Ratio: "percentunit", Bytes: "bytes", BytesPerSecond: "binBps", Seconds: "s", PerSecond: "ops",
	Cores: "suffix: cores", Timestamp: "dateTimeAsIso",
}

func (d Dashboard) grafanaPanel(p Panel) object {
	targets := []any{}
	for i, q := range p.Queries {
		targets = append(targets, grafanaTarget(p, q, string(rune('A'+i))))
	}
	source := p.SourceOf(Query{})
	if len(p.Queries) > 0 {
		source = p.SourceOf(p.Queries[0])
	}
	panel := object{
		"type": grafanaType[p.Kind], "title": p.Title, "description": p.Description, "datasource": datasource(source),
		"targets": targets, "options": grafanaOptions(p),
		"fieldConfig": object{"defaults": grafanaDefaults(p), "overrides": grafanaOverrides(p)},
	}
	if p.Kind == Table {
		panel["transformations"] = grafanaTransformations(p)
	}
	return panel
}

func grafanaTarget(p Panel, q Query, ref string) object {
	source := p.SourceOf(q)
	t := object{"refId": ref, "datasource": datasource(source)}
	switch source {
	case Tempo:
		t["queryType"], t["query"], t["limit"], t["tableType"] = "traceql", q.Expr, 50, "traces"
		return t
	case Loki:
		t["queryType"] = "range"
	case Prometheus:
		t["exemplar"] = q.Exemplars
	}
	t["expr"] = q.Expr
	if q.Legend != "" {
		t["legendFormat"] = q.Legend
	}
	switch p.Kind {
	case Stat, Bar, Topology:
		t["instant"], t["range"] = true, false
	case Table:
		t["instant"], t["range"], t["format"] = true, false, "table"
	}
	return t
}

func grafanaDefaults(p Panel) object {
	steps := []any{object{"color": colours[Neutral], "value": nil}}
	for _, t := range p.Thresholds {
		steps = append(steps, object{"color": colours[t.State], "value": t.From})
	}
	defaults := object{
		"unit":       grafanaUnit[p.Unit],
		"thresholds": object{"mode": "absolute", "steps": steps},
	}
	if p.Min != nil {
		defaults["min"] = *p.Min
	} else if p.Kind == TimeSeries {
		defaults["min"] = 0
	}
	if p.Max != nil {
		defaults["max"] = *p.Max
	}
	if p.EmptyWhenHealthy && p.Empty != "" {
		defaults["noValue"] = p.Empty
	}
	switch p.Kind {
	case TimeSeries:
		defaults["color"] = object{"mode": "palette-classic"}
		custom := object{"drawStyle": "line", "lineInterpolation": "linear", "lineWidth": 2, "fillOpacity": 8, "showPoints": "never", "spanNulls": false}
		if p.Stack {
			custom["stacking"], custom["fillOpacity"] = object{"mode": "normal"}, 40
		}
		if len(p.Thresholds) > 0 {
			custom["thresholdsStyle"] = object{"mode": "dashed"}
		}
		defaults["custom"] = custom
	case Stat, Bar, Topology:
		defaults["color"] = object{"mode": "thresholds"}
	}
	if len(p.Values) > 0 {
		options := object{}
		for i, v := range slices.Sorted(maps.Keys(p.Values)) {
			options[v] = object{"index": i, "text": p.Values[v]}
		}
		defaults["mappings"] = []any{object{"type": "value", "options": options}}
	}
	return defaults
}

// grafanaOverrides give the columns of a table their titles and units.
func grafanaOverrides(p Panel) []any {
	overrides := []any{}
	if p.Kind != Table {
		return overrides
	}
	for i, q := range p.Queries {
		unit := q.Unit
		if unit == "" {
			unit = p.Unit
		}
		overrides = append(overrides, object{
			"matcher":    object{"id": "byFrameRefID", "options": string(rune('A' + i))},
			"properties": []any{object{"id": "unit", "value": grafanaUnit[unit]}},
		})
	}
	return overrides
}

// grafanaTransformations lay the answers of a table's queries side by side and keep the
// columns that were asked for.
func grafanaTransformations(p Panel) []any {
	include, index, rename := object{}, object{}, object{}
	for i, l := range p.Labels {
		include[l], index[l] = true, i
	}
	for i, q := range p.Queries {
		column := "Value"
		if len(p.Queries) > 1 {
			column = "Value #" + string(rune('A'+i))
		}
		include[column], index[column] = true, len(p.Labels)+i
		if q.Legend != "" {
			rename[column] = q.Legend
		}
	}
	return []any{
		object{"id": "merge", "options": object{}},
		object{"id": "organize", "options": object{"includeByName": include, "indexByName": index, "renameByName": rename}},
	}
}

func grafanaOptions(p Panel) object {
	now := object{"calcs": []string{"lastNotNull"}, "fields": "", "values": false}
	switch p.Kind {
	case TimeSeries:
		return object{
			"legend":  object{"displayMode": "list", "placement": "bottom", "showLegend": true},
			"tooltip": object{"mode": "multi", "sort": "desc"},
		}
	case Stat, Topology:
		return object{"reduceOptions": now, "colorMode": "value", "graphMode": "none", "textMode": "auto", "justifyMode": "auto"}
	case Bar:
		return object{"reduceOptions": now, "displayMode": "basic", "orientation": "horizontal", "valueMode": "color"}
	case Logs:
		return object{"showTime": true, "wrapLogMessage": true, "enableLogDetails": true, "sortOrder": "Descending", "dedupStrategy": "none"}
	}
	return object{"showHeader": true, "cellHeight": "sm"}
}

// ConfigMaps is the kustomization.yaml of a folder of dashboards: it makes the ConfigMap that
// Grafana mounts. The component dashboards deploys it.
func ConfigMaps(component string, of []Dashboard) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Generated by go test ./internal/dashboard -update.\n")
	fmt.Fprintf(&b, "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nconfigMapGenerator:\n")
	fmt.Fprintf(&b, "  - name: dashboards-%s\n    options:\n      disableNameSuffixHash: true # Grafana reads again what changed\n", component)
	fmt.Fprintf(&b, "      labels: {grafana_dashboard: \"1\"} # for a Grafana of one's own that looks for it\n")
	fmt.Fprintf(&b, "      annotations: {orrery.dev/substitute: \"false\"}\n    files:\n")
	for _, d := range of {
		fmt.Fprintf(&b, "      - %s.json\n", d.Name)
	}
	return b.Bytes()
}
