// Package observe asks the platform's own observability what it knows: Prometheus for
// numbers, Loki for lines, Tempo for traces, Alertmanager for what is being said about it.
// Checks, verbs and the console share it.
//
// The services are reached by the paths of the API server's service proxy, so that nothing but a
// kubeconfig is needed. A kube.Client asks the pods themselves there, and verifies who answers. Answers
// are decoded into small types of our own: it must never import the servers' libraries, which would
// multiply the build time of the command line.
//
// Start reading at observe.go.
package observe
