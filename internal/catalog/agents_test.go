package catalog

import (
	"slices"
	"strings"
	"testing"
)

// Agents that are pods are where nodes do not run them, and nodes have the programs of another network.
func TestForAgentsAsPods(t *testing.T) {
	c := &Catalog{
		Distribution: Distribution{Binaries: []Binary{{Name: "kubelet"}}, Networks: map[string]Network{
			"cilium": {Binaries: []Binary{{Name: "agent"}}}, "routes": {Binaries: []Binary{{Name: "k3s"}}},
		}},
		Components: map[string]Component{
			"agents":   {Name: "agents", When: When{Network: "cilium", Agents: AgentPods}},
			"policies": {Name: "policies", When: When{Network: "cilium"}},
		},
		Overlays: map[string]Overlay{"local": {Name: "local", Components: []string{"agents", "policies"}}},
	}
	for nodes, want := range map[string]string{
		"": "policies kubelet agent", "cilium": "policies kubelet agent", "routes": "agents policies kubelet k3s",
	} {
		here := c.For("cilium", nodes)
		has := slices.Clone(here.Overlays["local"].Components)
		for _, b := range here.Distribution.Files() {
			has = append(has, b.Name)
		}
		if got := strings.Join(has, " "); got != want {
			t.Errorf("nodes of %q: %s, want %s", nodes, got, want)
		}
	}
	for _, network := range []string{"", "auto"} { // of nodes that would run them
		if got := c.For(network, "").Overlays["local"].Components; !slices.Equal(got, []string{"policies"}) {
			t.Errorf("network %q has %q", network, got)
		}
	}
	if got := c.For("routes", "routes").Overlays["local"].Components; len(got) != 0 {
		t.Errorf("without Cilium there is %q", got)
	}
}
