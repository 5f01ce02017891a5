package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	helmchart "helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/catalog"
)

// chartKubeVersion is what charts see as .Capabilities.KubeVersion: fixed, so that the
// output depends neither on a cluster nor on the libraries of this build.
var chartKubeVersion = chartutil.KubeVersion{Version: "v1.37.0", Major: "1", Minor: "37"}

// chart renders the component's own chart.
func chart(in RenderInput) ([]*unstructured.Unstructured, error) {
	dir := filepath.Join(in.Component.Dir, filepath.FromSlash(in.Component.Render.Chart))
	ch, err := loader.LoadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", short(in, dir), err)
	}
	return renderChart(in, ch, short(in, dir))
}

// moduleChart renders the chart that the overlay adds.
func moduleChart(in RenderInput, from catalog.ModuleChart) ([]*unstructured.Unstructured, error) {
	var files []*loader.BufferedFile
	for _, name := range slices.Sorted(maps.Keys(in.Chart)) {
		files = append(files, &loader.BufferedFile{Name: name, Data: in.Chart[name]})
	}
	ch, err := loader.LoadFiles(files)
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", from.Folder, err)
	}
	return renderChart(in, ch, from.Folder)
}

// renderChart renders with Helm's own engine. Values: the chart's, then the overlay's
// values.yaml, then the facts as .Values.orrery.
func renderChart(in RenderInput, ch *helmchart.Chart, from string) ([]*unstructured.Unstructured, error) {
	values, err := overlayValues(in, ch)
	if err != nil {
		return nil, err
	}
	values, _ = numbers(values, in.Facts.values()).(map[string]any)
	if err := chartutil.ProcessDependenciesWithMerge(ch, values); err != nil {
		return nil, fmt.Errorf("chart %s: dependencies: %w", from, err)
	}
	if err := validateValues(in, ch, values); err != nil {
		return nil, fmt.Errorf("chart %s: %w", from, err)
	}
	values["orrery"] = in.Facts.values()
	caps := chartutil.DefaultCapabilities.Copy()
	caps.KubeVersion = chartKubeVersion
	release := chartutil.ReleaseOptions{Name: in.Component.Name, Namespace: in.Component.Namespace, Revision: 1, IsInstall: true}
	all, err := chartutil.ToRenderValuesWithSchemaValidation(ch, values, release, caps, true)
	if err != nil {
		return nil, fmt.Errorf("chart %s: values: %w", from, err)
	}
	files, err := engine.Engine{}.Render(ch, all)
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", from, err)
	}
	// Random passwords and clocks in templates would make every apply a change.
	again, err := engine.Engine{}.Render(ch, all)
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", from, err)
	}
	var objs []*unstructured.Unstructured
	for _, crd := range ch.CRDObjects() {
		found, err := parse(crd.File.Data)
		if err != nil {
			return nil, fmt.Errorf("chart file %s: %w", crd.Filename, err)
		}
		objs = append(objs, found...)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if path.Base(name) == "NOTES.txt" || strings.HasPrefix(path.Base(name), "_") {
			continue
		}
		if files[name] != again[name] {
			return nil, fmt.Errorf("chart file %s renders differently each time;"+
				" generate secrets with `secrets` in component.yaml, and use no random or time functions", name)
		}
		found, err := parse([]byte(files[name]))
		if err != nil {
			return nil, fmt.Errorf("chart file %s: %w", name, err)
		}
		for _, o := range found {
			skip, err := isTest(o)
			if err != nil {
				return nil, fmt.Errorf("chart file %s: %s: %w", name, refOf(o), err)
			}
			if !skip {
				objs = append(objs, o)
			}
		}
	}
	return objs, nil
}

// overlayValues reads the overlay's values.yaml and refuses what Helm would drop with a
// warning: text where the chart has a mapping, and the other way round.
func overlayValues(in RenderInput, ch *helmchart.Chart) (map[string]any, error) {
	values := map[string]any{}
	if in.Overlay.Dir == "" {
		return values, nil
	}
	file := filepath.Join(in.Overlay.Dir, in.Component.Name, "values.yaml")
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return values, nil
	}
	if err != nil {
		return nil, err
	}
	read, err := chartutil.ReadValues(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", short(in, file), err)
	}
	if _, taken := read["orrery"]; taken {
		return nil, fmt.Errorf("%s: orrery: is set by the environment; use another key", short(in, file))
	}
	if err := sameShape(read, ch.Values, ""); err != nil {
		return nil, fmt.Errorf("%s: %w", short(in, file), err)
	}
	maps.Copy(values, read)
	return values, nil
}

// numbers puts facts that are numbers where a value is nothing but their placeholder, such as
// ${servers}: a chart counts with its values, and text is replaced only when it was rendered.
func numbers(value any, facts map[string]any) any {
	switch v := value.(type) {
	case map[string]any:
		for k := range v {
			v[k] = numbers(v[k], facts)
		}
	case []any:
		for i := range v {
			v[i] = numbers(v[i], facts)
		}
	case string:
		if n, ok := facts[strings.TrimSuffix(strings.TrimPrefix(v, "${"), "}")].(int); ok && factPlaceholder.FindString(v) == v {
			return n
		}
	}
	return value
}

func sameShape(over, base map[string]any, at string) error {
	for _, k := range slices.Sorted(maps.Keys(over)) {
		path := strings.TrimPrefix(at+"."+k, ".")
		b, known := base[k]
		if !known || b == nil || over[k] == nil { // null removes a value
			continue
		}
		o, overMap := over[k].(map[string]any)
		m, baseMap := b.(map[string]any)
		if overMap != baseMap {
			return fmt.Errorf("%s: is %s, but in the chart's values.yaml %s", path, shape(overMap), shape(baseMap))
		}
		if overMap {
			if err := sameShape(o, m, path); err != nil {
				return err
			}
		}
	}
	return nil
}

func shape(isMap bool) string {
	if isMap {
		return "a mapping"
	}
	return "a plain value"
}

// validateValues checks values.schema.json. The facts take part only when the schema
// speaks of them: a strict schema of somebody else's chart must not fail for our sake.
func validateValues(in RenderInput, ch *helmchart.Chart, values map[string]any) error {
	var schema struct {
		Properties map[string]any `json:"properties"`
		Required   []string       `json:"required"`
	}
	if len(ch.Schema) > 0 {
		if err := json.Unmarshal(ch.Schema, &schema); err != nil {
			return fmt.Errorf("values.schema.json: %w", err)
		}
	}
	checked := maps.Clone(values)
	if _, ok := schema.Properties["orrery"]; ok || slices.Contains(schema.Required, "orrery") {
		checked["orrery"] = in.Facts.values()
	}
	all, err := chartutil.CoalesceValues(ch, checked)
	if err != nil {
		return fmt.Errorf("values: %w", err)
	}
	if err := chartutil.ValidateAgainstSchema(ch, all); err != nil {
		return fmt.Errorf("values do not fit values.schema.json: %w", err)
	}
	return nil
}

// isTest tells Helm's test objects, which are not applied. Other hooks are refused:
// nothing runs them here, and leaving them out would be silent.
func isTest(o *unstructured.Unstructured) (bool, error) {
	hook, ok := o.GetAnnotations()["helm.sh/hook"]
	if !ok {
		return false, nil
	}
	for h := range strings.SplitSeq(hook, ",") {
		if !strings.HasPrefix(strings.TrimSpace(h), "test") {
			return false, fmt.Errorf("is a Helm hook (%s), and hooks are not run; make it a plain object", hook)
		}
	}
	return true, nil
}
