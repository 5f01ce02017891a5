// Package node is what k3d asks of a node image: a program k3s that is started as "server" or
// "agent" with k3s' flags and variables, joins others by token and URL, writes a kubeconfig and
// says in its log how far it is. Behind that is a node of package native.
//
// Start reading at main.go. It knows no engine and no cluster but its own; what k3d is told to
// make stands in internal/driver/k3d.
package node
