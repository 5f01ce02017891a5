package profile

import (
	"cmp"
	"slices"
)

const (
	Core     = "core"     // nodes, network, DNS, storage, messaging
	Platform = "platform" // and what a service in production has around it: certificates that renew, observability, pulse
	Full     = "full"     // everything of the overlay
	// Default is what an environment has, and a component belongs to, that names none.
	Default = Platform
)

var all = []string{Core, Platform, Full}

// All are the profiles, the smallest first.
func All() []string { return slices.Clone(all) }

// Name is that of a profile; "" is [Default].
func Name(name string) string { return cmp.Or(name, Default) }

// Rank is the place of a profile in [All], also of "", and -1 of what is none.
func Rank(name string) int { return slices.Index(all, Name(name)) }

// Has reports whether the profile has what belongs to another one.
func Has(profile, other string) bool { return Rank(other) <= Rank(profile) }
