// Package kube turns components into objects of a running cluster: it renders
// (kustomize or chart, plus the overlay), applies server-side with an inventory,
// prunes what left the catalogue, and explains what is not ready yet.
//
// It knows no driver: a kubeconfig is all it is given. It must never import the typed
// clientset (k8s.io/client-go/kubernetes): dynamic objects are enough, and a cold
// build of the CLI stays quick. Start reading at client.go; render.go needs no cluster.
package kube
