// Package spec is orrery.yaml: its types, strict loading, defaults and errors that
// name the field's path and what would be right. It is pure: no exec, no network.
//
// Start reading at types.go.
package spec
