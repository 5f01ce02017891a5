// Package contract is what the driver and the programs in its containers say to each other.
package contract

// The mirror's container is told by these, and listens on [MirrorPort].
const (
	MirrorPassword = "ORRERY_MIRROR_PASSWORD"
	MirrorNames    = "ORRERY_MIRROR_NAMES" // by which nodes call it, separated by commas
	MirrorPort     = 5000
	// PrunePath takes a [Pruning], with the password.
	PrunePath = "/orrery/v1/prune"
	// MendPath takes a list of digests, with the password.
	MendPath = "/orrery/v1/mend"
)

// Pruning says what has to stay.
type Pruning struct {
	InUse  []string `json:"inUse"`
	DryRun bool     `json:"dryRun"`
}
