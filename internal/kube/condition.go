package kube

import (
	"cmp"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Condition is one of status.conditions.
type Condition struct {
	Status, Reason, Message string
	// Observed is the generation that it speaks of; the current one when it does not say.
	Observed int64
}

// True reports whether the condition holds.
func (c Condition) True() bool { return c.Status == "True" }

// says is why it does not hold.
func (c Condition) says() string {
	if c.Status == "" {
		return "no such condition yet"
	}
	return cmp.Or(c.Message, c.Reason)
}

// StatusCondition reads the condition of that type of any object. Without one, its Status is
// empty.
func StatusCondition(o *unstructured.Unstructured, kind string) Condition {
	field, _, _ := unstructured.NestedFieldNoCopy(o.Object, "status", "conditions")
	conditions, _ := field.([]any)
	for _, v := range conditions {
		m, _ := v.(map[string]any)
		if m["type"] != kind {
			continue
		}
		c := Condition{Observed: o.GetGeneration()}
		c.Status, _ = m["status"].(string)
		c.Reason, _ = m["reason"].(string)
		c.Message, _ = m["message"].(string)
		if n, found, _ := unstructured.NestedInt64(m, "observedGeneration"); found {
			c.Observed = n
		}
		return c
	}
	return Condition{}
}
