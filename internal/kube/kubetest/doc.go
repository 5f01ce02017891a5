// Package kubetest is a Kubernetes API server for tests, in memory and over HTTPS. It is
// good enough for internal/kube: discovery, lists with selectors, server-side apply with
// field managers, custom kinds, deletion with owners and finalizers, and workloads that are
// ready at once, or held back for a reason that a test gives ([Server.Hold]).
//
// What it is not: it has no schemas, so it validates nothing, sets almost no defaults, and
// takes every list as one value; strategic merge patches are merged as JSON merge patches.
// Pods belong to their workload directly, without a ReplicaSet, and run nothing: exec and
// port-forward are answered by functions ([Server.HandleExec], [Server.HandleForward]). There are
// no EndpointSlices but those that a test writes, no watches, no admission webhooks, no quotas, and
// no RBAC but what a test denies ([Server.Deny]). Its controllers act within the request, so
// nothing is ever a moment late.
//
// It is for tests only and must never import internal/kube, whose tests may use it.
// Start reading at server.go.
package kubetest
