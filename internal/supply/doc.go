// Package supply is where the programs, images, charts and files of a platform come from, and
// why they are trusted: a catalogue with its lock, the sources that have what it names
// (bundles, registries, the compiler), the documents that are said of it, the keys that sign
// them and the policy that all is held to.
//
// It knows no environment and no cluster: internal/environment puts what it gives into one.
// Start reading at location.go, which finds a catalogue, and supply.go, which opens what it
// names.
package supply
