package catalog

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/orrery-dev/orrery/internal/profile"
)

// For is the catalogue as an environment with that network.plugin has it: with the node
// distribution for it, and without the components that are for others, also among what is
// needed. nodes is the network whose programs its nodes have, "" for that plugin's own: agents of
// another one are pods. "" and "auto" leave components for all networks.
func (c *Catalog) For(network, nodes string) *Catalog {
	decided := network != "" && network != "auto"
	nodes = cmp.Or(nodes, network)
	out := *c
	if decided {
		out.Distribution = c.Distribution.For(nodes)
	}
	out.Components, out.Overlays, out.elsewhere = map[string]Component{}, map[string]Overlay{}, map[string]string{}
	for name, component := range c.Components {
		if w := component.When.Network; decided && w != "" && w != network {
			out.elsewhere[name] = fmt.Sprintf("component %q is for environments with network.plugin %s; this one has %s", name, w, network)
		} else if component.When.Agents == AgentPods && nodes == network {
			out.elsewhere[name] = fmt.Sprintf("component %q is for environments whose nodes do not run the network's agents themselves", name)
		}
	}
	out.leaveOut(c)
	return &out
}

// Existing is the catalogue as a cluster of somebody else has it, which provides the named
// components by itself: without them and without those for clusters of our own, also among what
// is needed.
func (c *Catalog) Existing(provided []string) (*Catalog, error) {
	out := *c
	out.Components, out.Overlays, out.elsewhere = map[string]Component{}, map[string]Overlay{}, maps.Clone(c.elsewhere)
	if out.elsewhere == nil {
		out.elsewhere = map[string]string{}
	}
	for name, component := range c.Components {
		if component.When.Cluster == OwnCluster {
			out.elsewhere[name] = fmt.Sprintf("component %q is for clusters that orrery makes, and somebody else made this one", name)
		}
	}
	for _, name := range provided {
		if _, ok := c.Components[name]; !ok && c.elsewhere[name] == "" {
			return nil, fmt.Errorf("existing.provides: there is no component %q%s; there are: %s",
				name, suggestion(name, sortedKeys(c.Components)), list(sortedKeys(c.Components)))
		}
		out.elsewhere[name] = fmt.Sprintf("component %q is the cluster's own, by existing.provides of orrery.yaml", name)
	}
	out.leaveOut(c)
	return &out, nil
}

// Within is the catalogue as an environment of that profile has it ("" is the default one): its
// overlays list what the profile has, and their bootstrap. What they do not list can still be named.
func (c *Catalog) Within(name string) *Catalog {
	out := *c
	out.Overlays = map[string]Overlay{}
	for overlay, o := range c.Overlays {
		o.Components = slices.DeleteFunc(slices.Clone(o.Components), func(n string) bool {
			return !profile.Has(name, c.Components[n].Profile) && !slices.Contains(o.Bootstrap, n)
		})
		out.Overlays[overlay] = o
	}
	return &out
}

// leaveOut takes over of a catalogue what is not elsewhere.
func (c *Catalog) leaveOut(from *Catalog) {
	for name, component := range from.Components {
		if c.elsewhere[name] == "" {
			component.Needs = c.Here(component.Needs)
			c.Components[name] = component
		}
	}
	for name, o := range from.Overlays {
		o.Components, o.Bootstrap = c.Here(o.Components), c.Here(o.Bootstrap)
		if c.elsewhere[o.Gate] != "" {
			o.Gate = ""
		}
		c.Overlays[name] = o
	}
}

// Here are the names without those of components for another network or cluster.
func (c *Catalog) Here(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return c.elsewhere[n] != "" })
}

// Select yields the named components of the catalogue, or all of the overlay when none
// is named, together with what they need, the overlay's gate and, unless only parts of it are
// named, its bootstrap, in dependency order (by name within a wave). A named component need not
// be listed in the overlay. What stands behind the gate comes back with it among its needs.
func (c *Catalog) Select(overlay string, components []string) ([]Component, error) {
	o, ok := c.Overlays[overlay]
	if !ok {
		return nil, fmt.Errorf("there is no overlay %q%s; there are: %s", overlay, suggestion(overlay, sortedKeys(c.Overlays)), list(sortedKeys(c.Overlays)))
	}
	if len(components) == 0 {
		components = o.Components
	}
	for _, name := range components {
		if why := c.elsewhere[name]; why != "" {
			return nil, errors.New(why)
		}
		if _, ok := c.Components[name]; !ok {
			return nil, fmt.Errorf("there is no component %q%s; there are: %s", name, suggestion(name, sortedKeys(c.Components)), list(sortedKeys(c.Components)))
		}
	}
	var gate, before []string // before: the gate, what it needs, and what is not behind it
	if o.Gate != "" {
		gate = []string{o.Gate}
		before = c.closure(slices.Concat(gate, o.Bootstrap))
	}
	// Such as the default storage class, which no component can name: each overlay has another.
	if slices.ContainsFunc(components, func(n string) bool { return !slices.Contains(o.Bootstrap, n) }) {
		components = slices.Concat(o.Bootstrap, components)
	}
	var selected []Component
	for _, name := range c.closure(slices.Concat(gate, components)) {
		component := c.Components[name]
		if o.Gate != "" && !slices.Contains(before, name) && !slices.Contains(component.Needs, o.Gate) {
			component.Needs = append(slices.Clone(component.Needs), o.Gate)
		}
		selected = append(selected, component)
	}
	return slices.Concat(Waves(selected)...), nil
}

// closure yields names and everything that they need, each once.
func (c *Catalog) closure(names []string) []string {
	seen := map[string]bool{}
	var all []string
	for todo := slices.Clone(names); len(todo) > 0; todo = todo[1:] {
		if name := todo[0]; !seen[name] {
			seen[name] = true
			all = append(all, name)
			todo = append(todo, c.Components[name].Needs...)
		}
	}
	return all
}

// Waves groups components so that all needs of one are in earlier waves; within a wave
// they are sorted by name. Needs outside of the given components are taken as there.
// A cycle, which [Load] refuses, comes out as one last wave.
func Waves(components []Component) [][]Component {
	left := map[string]Component{}
	for _, c := range components {
		left[c.Name] = c
	}
	var waves [][]Component
	for len(left) > 0 {
		var wave []Component
		for _, c := range left {
			if !slices.ContainsFunc(c.Needs, func(n string) bool { _, waits := left[n]; return waits }) {
				wave = append(wave, c)
			}
		}
		if wave == nil {
			for _, c := range left {
				wave = append(wave, c)
			}
		}
		slices.SortFunc(wave, func(a, b Component) int { return cmp.Compare(a.Name, b.Name) })
		for _, c := range wave {
			delete(left, c.Name)
		}
		waves = append(waves, wave)
	}
	return waves
}

// findCycle returns a cycle of needs as a, b, …, a; nil when there is none.
func findCycle(components map[string]Component) []string {
	done := map[string]bool{}
	var path []string
	var visit func(name string) []string
	visit = func(name string) []string {
		if i := slices.Index(path, name); i >= 0 {
			return append(slices.Clone(path[i:]), name)
		}
		if done[name] {
			return nil
		}
		path = append(path, name)
		for _, need := range components[name].Needs {
			if cycle := visit(need); cycle != nil {
				return cycle
			}
		}
		path = path[:len(path)-1]
		done[name] = true
		return nil
	}
	for _, name := range sortedKeys(components) {
		if cycle := visit(name); cycle != nil {
			return cycle
		}
	}
	return nil
}
