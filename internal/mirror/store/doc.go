// Package store is what an environment's registry keeps on the disk, and what of it nothing needs
// any more. It reads the folders of CNCF Distribution, layout v2, because no request to a registry
// lists the manifests that have no tag.
//
// It knows no cluster and must not import one: what is in use is told to it. Start reading at
// prune.go.
package store
