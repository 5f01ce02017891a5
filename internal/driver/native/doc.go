// Package native makes a Kubernetes cluster out of Linux namespaces: no container
// engine, no virtual machine, no registry elsewhere.
//
// Who does what:
//   - The CLI ([Driver]) writes keys and configuration to the state directory, starts the
//     supervisor, talks to it over a unix socket and may go away at any time.
//   - The supervisor (this program again, mode "supervise") outlives the CLI. It holds the
//     fabric (a network namespace with a bridge), the load balancer and the registry
//     mirror, and it starts the nodes. When it dies, everything below it dies too.
//   - Each node is a process (mode "node-init") that is PID 1 in namespaces of its own;
//     it mounts the node's root file system, runs the node's services and reaps.
//
// The package knows no component; it imports neither client-go nor the catalogue.
// Start reading at driver.go, then supervisor.go, machine.go and nodeinit.go.
package native
