// Package plan turns what is wanted (spec and catalogue) and what was observed into
// ordered steps. It is pure: it imports neither exec, net nor client-go, reads no file
// and knows no driver.
//
// Start reading at plan.go, what a plan is; up.go makes one.
package plan
