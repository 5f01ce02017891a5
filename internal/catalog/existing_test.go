package catalog

import (
	"slices"
	"strings"
	"testing"
)

// What somebody's cluster provides, and what is for clusters of our own, is not deployed; what
// needs it takes it as there.
func TestExisting(t *testing.T) {
	c := &Catalog{
		Components: map[string]Component{"dns": {Name: "dns"}, "app": {Name: "app", Needs: []string{"dns", "hardening"}}, "gate": {Name: "gate"}, "hardening": {Name: "hardening", When: When{Cluster: OwnCluster}}},
		Overlays:   map[string]Overlay{"prod": {Components: []string{"app", "dns", "hardening"}, Bootstrap: []string{"dns"}, Gate: "gate"}},
	}
	existing, err := c.Existing([]string{"dns", "gate"})
	if err != nil {
		t.Fatal(err)
	}
	selected, err := existing.Select("prod", nil)
	if err != nil || len(selected) != 1 || selected[0].Name != "app" || len(selected[0].Needs) > 0 {
		t.Errorf("%+v, %v", selected, err)
	}
	if _, err := existing.Select("prod", []string{"dns"}); err == nil || !strings.Contains(err.Error(), "existing.provides") {
		t.Errorf("a component that the cluster has: %v", err)
	}
	if _, err := existing.Select("prod", []string{"hardening"}); err == nil || !strings.Contains(err.Error(), "for clusters that orrery makes") {
		t.Errorf("a component for clusters of our own: %v", err)
	}
	if all, err := c.Select("prod", nil); err != nil || len(all) != 4 {
		t.Errorf("in a cluster of our own: %+v, %v", all, err)
	}
	if !slices.Contains(c.Overlays["prod"].Bootstrap, "dns") {
		t.Error("the catalogue itself changed")
	}
	if _, err := c.Existing([]string{"dsn"}); err == nil || !strings.Contains(err.Error(), `no component "dsn"`) {
		t.Errorf("a component that there is none of: %v", err)
	}
}
