// Package ci is what the workflows run and what a person runs instead of them: jobs with a
// result, the gates of which they consist, and the hooks of a clone.
//
// A job is either some stages of .ci/run, which is the gate of a machine with Go and git
// alone, or a function here. Nothing is there twice (docs/adr/0060-one-code-for-every-gate.md).
// Tools are compiled from the pins under tools/ and run; none is linked.
//
// Start reading at ci.go. It must not know environments, clusters or drivers.
package ci
