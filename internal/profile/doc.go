// Package profile names how much of the platform an environment has. A profile has all that a
// smaller one has; a component says in its own file which is the smallest that has it.
//
// It imports nothing of ours: spec, catalog and plan share it.
//
// Start reading at profile.go.
package profile
