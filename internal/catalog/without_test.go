package catalog

import (
	"slices"
	"strings"
	"testing"
)

// What a cluster provides is not deployed, and what needs it takes it as there.
func TestWithout(t *testing.T) {
	c := &Catalog{
		Components: map[string]Component{"dns": {Name: "dns"}, "app": {Name: "app", Needs: []string{"dns"}}, "gate": {Name: "gate"}},
		Overlays:   map[string]Overlay{"prod": {Components: []string{"app", "dns"}, Bootstrap: []string{"dns"}, Gate: "gate"}},
	}
	without, err := c.Without([]string{"dns", "gate"})
	if err != nil {
		t.Fatal(err)
	}
	selected, err := without.Select("prod", nil)
	if err != nil || len(selected) != 1 || selected[0].Name != "app" || len(selected[0].Needs) > 0 {
		t.Errorf("%+v, %v", selected, err)
	}
	if _, err := without.Select("prod", []string{"dns"}); err == nil || !strings.Contains(err.Error(), "existing.provides") {
		t.Errorf("a component that the cluster has: %v", err)
	}
	if !slices.Contains(c.Overlays["prod"].Bootstrap, "dns") {
		t.Error("the catalogue itself changed")
	}
	if _, err := c.Without([]string{"dsn"}); err == nil || !strings.Contains(err.Error(), `no component "dsn"`) {
		t.Errorf("a component that there is none of: %v", err)
	}
}
