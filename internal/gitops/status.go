package gitops

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Status is how an Application is. Its JSON form is a contract.
type Status struct {
	Component string `json:"component"`
	// Revision is what it is to have, Synced what it has; digests.
	Revision string `json:"revision"`
	Synced   string `json:"synced,omitempty"`
	Sync     string `json:"sync"`   // Synced, OutOfSync, Unknown
	Health   string `json:"health"` // Healthy, Progressing, Degraded, Missing, …
	// Reason is why it is not both Synced and Healthy.
	Reason string `json:"reason,omitempty"`
	// Sick are its objects that are not healthy.
	Sick []Sick `json:"sick,omitempty"`
	// Drifted are those that are not as they are to be.
	Drifted []Sick `json:"drifted,omitempty"`
	// Operation is the phase of what Argo CD does or did last: Running, Succeeded, Failed, …
	Operation string `json:"operation,omitempty"`
	// Tried is the revision that it was of.
	Tried string `json:"-"`
	// Hopeless: waiting does not help.
	Hopeless bool `json:"hopeless,omitempty"`
	// Doubtful: only its pods say that it is hopeless, and they may be those of before.
	Doubtful bool `json:"-"`
	// Refused is what the server said against an object, if the last sync was of Revision.
	Refused string `json:"-"`
}

// Sick is an object that is not as it should be.
type Sick struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
	Health     string `json:"health,omitempty"`
	Message    string `json:"message,omitempty"`
}

// Good: what runs is what it is to have, and it is well.
func (s Status) Good() bool {
	return s.Sync == "Synced" && s.Health == "Healthy" && s.Operation != "Running"
}

// Failed: what it does now came to an end, and not to a good one.
func (s Status) Failed() bool {
	return s.Operation == "Failed" || s.Operation == "Error" || s.Health == "Degraded"
}

// HopelessWith: it is hopeless, and that is due to what was pushed: the digest of its own artifact, or
// root's where it is the root.
func (s Status) HopelessWith(digest, root string) bool {
	if s.Component == Root {
		return (s.Operation == "Failed" || s.Operation == "Error") && s.Tried == root
	}
	return s.Hopeless && s.Revision == digest && s.Synced == digest
}

// Line says it to a person.
func (s Status) Line() string {
	line := s.Component + " is " + s.Sync + ", " + s.Health
	if s.Reason != "" {
		line += ": " + s.Reason
	}
	return line
}

// StatusOf reads an Application.
func StatusOf(app *unstructured.Unstructured) Status {
	text := func(fields ...string) string { v, _, _ := unstructured.NestedString(app.Object, fields...); return v }
	s := Status{
		Component: app.GetName(), Revision: text("spec", "source", "targetRevision"), Synced: text("status", "sync", "revision"),
		Sync: text("status", "sync", "status"), Health: text("status", "health", "status"), Operation: text("status", "operationState", "phase"),
	}
	if s.Sync == "" {
		s.Sync = "Unknown"
	}
	if s.Health == "" {
		s.Health = "Unknown"
	}
	resources, _, _ := unstructured.NestedSlice(app.Object, "status", "resources")
	for _, r := range resources {
		m, _ := r.(map[string]any)
		health, _, _ := unstructured.NestedString(m, "health", "status")
		message, _, _ := unstructured.NestedString(m, "health", "message")
		get := func(k string) string { v, _ := m[k].(string); return v }
		version := get("version")
		if g := get("group"); g != "" {
			version = g + "/" + version
		}
		o := Sick{version, get("kind"), get("namespace"), get("name"), health, message}
		if health != "" && health != "Healthy" {
			s.Sick = append(s.Sick, o)
		}
		if get("status") == "OutOfSync" {
			s.Drifted = append(s.Drifted, o)
		}
	}
	if !s.Good() || s.Failed() {
		s.Reason = reason(app, s)
	}
	// A sync that failed for what it is to have now is not tried again.
	if s.Tried = text("status", "operationState", "syncResult", "revision"); s.Tried == s.Revision {
		s.Hopeless = s.Operation == "Failed" || s.Operation == "Error"
		s.Refused = refused(app)
	}
	return s
}

// reason is the first of: what a sync came to, what is wrong with the source, which object is sick.
func reason(app *unstructured.Unstructured, s Status) string {
	if s.Operation == "Failed" || s.Operation == "Error" || s.Operation == "Running" {
		if r := refused(app); r != "" {
			return r
		}
	}
	conditions, _, _ := unstructured.NestedSlice(app.Object, "status", "conditions")
	for _, c := range conditions {
		m, _ := c.(map[string]any)
		kind, _ := m["type"].(string)
		message, _ := m["message"].(string)
		if strings.HasSuffix(kind, "Error") && message != "" {
			return oneLine(message)
		}
	}
	for _, x := range s.Sick {
		if x.Message != "" {
			return oneLine(x.Kind + " " + x.Name + ": " + x.Message)
		}
	}
	for _, x := range s.Sick {
		return x.Kind + " " + x.Name + " is " + x.Health
	}
	message, _, _ := unstructured.NestedString(app.Object, "status", "operationState", "message")
	if s.Operation != "Succeeded" && message != "" {
		return oneLine(message)
	}
	return ""
}

// refused is the first object that the last sync could not apply, and why.
func refused(app *unstructured.Unstructured) string {
	results, _, _ := unstructured.NestedSlice(app.Object, "status", "operationState", "syncResult", "resources")
	for _, r := range results {
		m, _ := r.(map[string]any)
		text := func(k string) string { v, _ := m[k].(string); return v }
		if text("status") == "SyncFailed" {
			return oneLine(text("kind") + " " + text("name") + ": " + text("message"))
		}
	}
	return ""
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
