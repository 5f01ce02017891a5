// Package audit looks for what is wrong with the security of a cluster: flags of its programs,
// files, certificates, workloads, access rules, plaintext. It judges evidence that somebody else
// collected, reads nothing and changes nothing.
//
// It is not the audit that ends `orrery down`, which looks for what was left over, and not the audit
// log of the API server.
//
// Start reading at audit.go. What a flag or a setting has to be is data, in settings.yaml; the rest
// are functions over objects, in workloads.go, rbac.go and files.go.
package audit
