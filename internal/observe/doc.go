// Package observe asks the platform's own observability what it knows: Prometheus for
// numbers, Loki for lines, Tempo for traces, Alertmanager for what is being said about it.
// Checks, verbs and the console share it.
//
// The services are reached through the API server's service proxy, so that nothing but a
// kubeconfig is needed and nothing listens on the host. It speaks TLS to them, and verifies them no
// more than any API server does: who they are is what the node that runs the pod says. Answers are decoded into small
// types of our own: it must never import the servers' libraries, which would multiply the
// build time of the command line.
//
// Start reading at observe.go.
package observe
