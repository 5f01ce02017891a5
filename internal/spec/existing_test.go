package spec

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const cluster = head + `driver: existing
existing:
  kubeconfig: clusters/prod.kubeconfig
  context: prod
images:
  registry: registry.example.org/platform
`

func TestExisting(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "orrery.yaml")
	if err := os.WriteFile(file, []byte(cluster), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, "clusters", "prod.kubeconfig"); e.Existing.Kubeconfig != want {
		t.Errorf("kubeconfig %s, want %s", e.Existing.Kubeconfig, want)
	}
	if e.Overlay != "prod" || e.Ports != (Ports{}) {
		t.Errorf("overlay %s, ports %v", e.Overlay, e.Ports)
	}
	if err := e.Validate(); err != nil { // as kept in the state
		t.Error(err)
	}
	if e, err = Parse([]byte(cluster+"overlay: mine\n"), "f"); err != nil || e.Overlay != "mine" {
		t.Errorf("an overlay that only the catalogue knows: %v, %v", e.Overlay, err)
	}
}

func TestExistingErrors(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"no block":         {head + "driver: existing\nimages: {registry: r.example.org}\n", "spec path `existing`: want the cluster"},
		"no registry":      {strings.Split(cluster, "images:")[0], "spec path `images.registry`: want the registry"},
		"no context":       {strings.Replace(cluster, "  context: prod\n", "", 1), "spec path `existing.context`: want a context"},
		"no kubeconfig":    {strings.Replace(cluster, "  kubeconfig: clusters/prod.kubeconfig\n", "", 1), "spec path `existing.kubeconfig`: want the file"},
		"other driver":     {strings.Replace(cluster, "driver: existing", "driver: native", 1), "spec path `existing`: is for driver: existing"},
		"servers":          {cluster + "servers: 3\n", "f:9: spec path `servers`: with driver: existing the cluster has its own"},
		"agents":           {cluster + "agents: 1\n", "spec path `agents`: with driver: existing"},
		"zones":            {cluster + "zones: [a]\n", "spec path `zones`: with driver: existing"},
		"node":             {cluster + "node: {memory: 4Gi}\n", "spec path `node`: with driver: existing"},
		"ports":            {cluster + "ports: {api: 16443}\n", "spec path `ports`: with driver: existing"},
		"network.nodes":    {cluster + "network: {nodes: 10.1.0.0/24}\n", "spec path `network.nodes`: with driver: existing"},
		"ptp":              {cluster + "network: {plugin: ptp}\n", "spec path `network.plugin`: want"},
		"cluster's on own": {head + "network: {plugin: cluster}\n", "spec path `network.plugin`: want"},
		"unknown field":    {strings.Replace(cluster, "  context:", "  contxt:", 1), "no such field"},
		"provides twice":   {strings.Replace(cluster, "  context: prod", "  context: prod\n  provides: [coredns, coredns]", 1), "name it once"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(c.text), "f"); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}
