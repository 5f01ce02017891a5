// Package backends lists the secrets engines and ways to log in that this Vault has. To add
// one, add a line to [Secrets] or [Auth].
package backends

import (
	"maps"
	"slices"

	jwtauth "github.com/hashicorp/vault-plugin-auth-jwt"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/audit"
	"github.com/hashicorp/vault/builtin/logical/pki"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/orrery-dev/orrery/apps/vault-plugins/foundationdb"
	"github.com/orrery-dev/orrery/apps/vault-plugins/nats"
	"github.com/orrery-dev/orrery/apps/vault-plugins/scylla"
)

// Secrets returns the secrets engines by type.
func Secrets() map[string]logical.Factory {
	return map[string]logical.Factory{
		"foundationdb": foundationdb.Factory,
		"kv":           kv.Factory,
		"nats":         nats.Factory,
		"pki":          pki.Factory,
		"scylla":       scylla.Factory,
		"transit":      transit.Factory,
	}
}

// Auth returns the ways to log in, beside tokens, by type.
func Auth() map[string]logical.Factory {
	return map[string]logical.Factory{"jwt": jwtauth.Factory}
}

// Audit returns the audit devices.
func Audit() map[string]audit.Factory {
	return map[string]audit.Factory{"file": audit.NewFileBackend}
}

// Registry answers for Vault's catalogue of plugins: what is linked in, and nothing else.
type Registry struct{}

func (Registry) of(t consts.PluginType) map[string]logical.Factory {
	switch t {
	case consts.PluginTypeSecrets:
		return Secrets()
	case consts.PluginTypeCredential:
		return Auth()
	default:
		return nil
	}
}

// Contains says whether there is an engine of that name.
func (r Registry) Contains(name string, t consts.PluginType) bool { return r.of(t)[name] != nil }

// Get returns the engine.
func (r Registry) Get(name string, t consts.PluginType) (func() (any, error), bool) {
	f, ok := r.of(t)[name]
	return func() (any, error) { return f, nil }, ok
}

// Keys returns the names of all engines of a type.
func (r Registry) Keys(t consts.PluginType) []string { return slices.Sorted(maps.Keys(r.of(t))) }

// DeprecationStatus says that none is deprecated.
func (r Registry) DeprecationStatus(name string, t consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, r.Contains(name, t)
}

// IsBuiltinEntPlugin says that none is of Vault's other edition.
func (Registry) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
