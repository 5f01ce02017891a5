// Package kube turns components into objects of a running cluster: it renders
// (kustomize or chart, plus the overlay), applies server-side with an inventory,
// prunes what left the catalogue, and explains what is not ready yet.
//
// It knows no driver: a kubeconfig is all it is given. Start reading at client.go.
package kube
