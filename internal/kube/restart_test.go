package kube

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// TestOutdatedSince: pods read a Secret in five ways, and are outdated by a change after they and their workload were made.
func TestOutdatedSince(t *testing.T) {
	at := func(minute int) time.Time { return time.Date(2031, 1, 1, 0, minute, 0, 0, time.UTC) }
	changed := map[string]time.Time{"login": at(5), "other": at(9)}
	const made = "2031-01-01T00:01:00Z"
	for name, test := range map[string]struct {
		created, annotation, spec string
		want                      time.Time
	}{
		"variable":             {made, "", "containers: [{env: [{valueFrom: {secretKeyRef: {name: login}}}]}]", at(5)},
		"all as variables":     {made, "", "containers: [{envFrom: [{secretRef: {name: login}}]}]", at(5)},
		"of an init container": {made, "", "initContainers: [{env: [{name: a, value: b}, {valueFrom: {secretKeyRef: {name: login}}}]}]", at(5)},
		"files":                {made, "", "volumes: [{emptyDir: {}}, {secret: {secretName: login}}]", at(5)},
		"projected":            {made, "", "volumes: [{projected: {sources: [{configMap: {name: x}}, {secret: {name: login}}]}}]", at(5)},
		"the later of two":     {made, "", "volumes: [{secret: {secretName: login}}, {secret: {secretName: other}}]", at(9)},
		"another's":            {made, "", "volumes: [{secret: {secretName: theirs}}, {configMap: {name: login}}]", time.Time{}},
		"no pods":              {made, "", "{}", time.Time{}},
		"seen":                 {made, "2031-01-01T00:05:00Z", "volumes: [{secret: {secretName: login}}]", time.Time{}},
		"seen the one before":  {made, "2031-01-01T00:04:00Z", "volumes: [{secret: {secretName: login}}]", at(5)},
		"made afterwards":      {"2031-01-01T00:06:00Z", "", "volumes: [{secret: {secretName: login}}]", time.Time{}},
		"written by hand":      {made, "yesterday", "volumes: [{secret: {secretName: login}}]", at(5)},
	} {
		t.Run(name, func(t *testing.T) {
			w := &unstructured.Unstructured{}
			text := "metadata: {creationTimestamp: " + test.created + "}\nspec:\n  template:\n    metadata: {annotations: {orrery.dev/secrets-changed: " +
				test.annotation + "}}\n    spec: {" + test.spec + "}\n"
			if test.spec == "{}" {
				text = "metadata: {creationTimestamp: " + test.created + "}\nspec: {template: {spec: {}}}\n"
			}
			if err := yaml.Unmarshal([]byte(text), &w.Object); err != nil {
				t.Fatal(err)
			}
			if got := outdatedSince(w, changed); !got.Equal(test.want) {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}
