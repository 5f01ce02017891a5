package catalog

import "errors"

// Catalog is the whole catalogue of a repository.
type Catalog struct {
	// Root is the absolute folder of the repository.
	Root         string
	Components   map[string]Component
	Overlays     map[string]Overlay
	Distribution Distribution
}

var errTodo = errors.New("not implemented yet")

// Load reads and checks the catalogue below repoRoot.
func Load(repoRoot string) (*Catalog, error) { return nil, errTodo }

// Select yields the named components with their needs, in dependency order.
func (c *Catalog) Select(overlay string, components []string) ([]Component, error) {
	return nil, errTodo
}

// Waves groups components so that all needs of one are in earlier waves.
func Waves(components []Component) [][]Component { return nil }

// FindRoot walks up from dir to the folder that holds infra/k8s/base.
func FindRoot(dir string) (string, error) { return "", errTodo }
