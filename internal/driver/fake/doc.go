// Package fake is a driver for tests that makes no cluster: [Driver] keeps what it remembers
// in its state directory, as every driver does, and asks a [Host] for a Kubernetes API and
// an image registry. The host lives in the test's process and is reached over HTTP, so that
// a driver may run in a process of its own, as in the journeys of testscript. Everything
// that a driver does can be made to fail, late or early ([Cluster.Fail]).
//
// It is for tests only and must never be linked into a program. It knows no component.
// Start reading at driver.go.
package fake
