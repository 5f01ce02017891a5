// Package catalog reads the component folders (infra/k8s/base/*), the overlays and
// the node distribution (infra/native), checks them, and yields deployment waves.
// It is pure: it reads files and imports no driver, kube or image code.
//
// Start reading at types.go.
package catalog
