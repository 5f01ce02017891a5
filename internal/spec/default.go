package spec

// DefaultName is the environment that is meant when none is named.
const DefaultName = "local"

// Ports of the default environment. Others get free ones, so that environments can run side by side.
const (
	defaultAPIPort      = 16443
	defaultRegistryPort = 15000
)

// Default is the environment of an absent orrery.yaml: "local", three servers and two
// agents over the zones a, b and c.
func Default() Environment { return Named(DefaultName) }

// Named is [Default] under another name. The fixed ports belong to "local" alone:
// any other environment picks free ones (0).
func Named(name string) Environment {
	agents := 2
	e := Environment{
		APIVersion: APIVersion,
		Kind:       Kind,
		Name:       name,
		Driver:     "native",
		Servers:    3,
		Agents:     &agents,
		Zones:      []string{"a", "b", "c"},
		Network: Network{
			Plugin:   PluginAuto,
			Nodes:    "10.89.0.0/24",
			Pods:     "10.244.0.0/16",
			Services: "10.96.0.0/16",
		},
		Durability: DurabilityFull,
		Overlay:    "local",
		Images:     Images{Sources: []string{SourceBundle, SourceRegistry, SourceSource}, Verify: VerifyEnforce},
		GitOps:     GitOps{Source: GitOpsOCI},
	}
	if name == DefaultName {
		e.Ports = Ports{API: defaultAPIPort, Registry: defaultRegistryPort}
	}
	return e
}

// Rename gives e another name. Ports that are the defaults of "local" become 0 (a free
// one), since two environments cannot listen on the same port. It is what `--env` does
// to an orrery.yaml that names another environment.
func (e *Environment) Rename(name string) {
	if name == e.Name {
		return
	}
	e.Name = name
	if e.Ports.API == defaultAPIPort {
		e.Ports.API = 0
	}
	if e.Ports.Registry == defaultRegistryPort {
		e.Ports.Registry = 0
	}
}
