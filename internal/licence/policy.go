package licence

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// Policy says which licences may be linked into what the platform runs.
type Policy struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"` // LicencePolicy
	// Allowed are SPDX identifiers.
	Allowed []string `json:"allowed"`
	// Exceptions by module path: what it is under, and why that is right. The licence
	// replaces the one that was detected.
	Exceptions map[string]Exception `json:"exceptions,omitempty"`
}

// Exception is one module's.
type Exception struct {
	Licence string `json:"licence"` // SPDX expression
	Reason  string `json:"reason"`
}

// LoadPolicy reads a policy; nil when there is none.
func LoadPolicy(file string) (*Policy, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the licence policy: %w", err)
	}
	return ParsePolicy(data, file)
}

// ParsePolicy reads a policy strictly; file is what errors call it.
func ParsePolicy(data []byte, file string) (*Policy, error) {
	var p Policy
	if err := yaml.UnmarshalStrict(data, &p); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if p.APIVersion != "orrery.dev/v1alpha1" || p.Kind != "LicencePolicy" {
		return nil, fmt.Errorf("%s: apiVersion and kind are %q and %q; must be orrery.dev/v1alpha1 and LicencePolicy", file, p.APIVersion, p.Kind)
	}
	for module, e := range p.Exceptions {
		if e.Licence == "" || e.Reason == "" {
			return nil, fmt.Errorf("%s: exceptions.%s: licence and reason are needed", file, module)
		}
	}
	return &p, nil
}

// Excepts reports whether the policy names the licence of a module, so that it need not be
// detected.
func (p *Policy) Excepts(module string) bool {
	if p == nil {
		return false
	}
	_, ok := p.Exceptions[module]
	return ok
}

// Decide returns the licence of a module, given what was detected, or an error when the
// policy does not allow it. Without a policy everything is as detected.
func (p *Policy) Decide(module, detected string) (string, error) {
	if p == nil {
		return detected, nil
	}
	if e, ok := p.Exceptions[module]; ok {
		return e.Licence, nil
	}
	if detected == Unknown || detected == "" {
		return detected, fmt.Errorf("%s: its licence was not recognised", module)
	}
	for _, id := range strings.Split(detected, " AND ") {
		if !slices.Contains(p.Allowed, id) {
			return detected, fmt.Errorf("%s: licence %s is not allowed", module, id)
		}
	}
	return detected, nil
}
