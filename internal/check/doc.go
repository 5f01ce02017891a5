// Package check is the one vocabulary for waiting: preflight, readiness, smoke
// tests and drill assertions are all a [Condition] with a typed result and a deadline.
//
// What code waits for on its way, without a person to tell, it polls with [Until].
//
// It imports no other package of ours, so that drivers, kube and tests can share it.
// Checks of the running platform live in check/smoke. Start reading at condition.go.
package check
