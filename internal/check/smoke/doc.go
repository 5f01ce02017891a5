// Package smoke holds the checks that `orrery verify` runs. Each one writes real
// data into the running cluster, reads it back by another way and takes away what it
// made, also when it fails or is cancelled. What it makes carries the label
// orrery.dev/smoke, so that leftovers of a killed run can be found.
//
// A check never asks the driver how it built the cluster: what a check says must be
// true on every driver. It must not import a driver's implementation.
//
// What only one component knows is checked by a Job that the component brings; see job.go.
//
// Newcomers start at [Checks], the one table of all checks.
package smoke
