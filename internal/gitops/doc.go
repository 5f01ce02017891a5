// Package gitops is what Argo CD is told: the rendered platform as OCI artifacts, one for each
// component, the Applications that point to them by digest, and the rights that applying exactly
// those objects takes.
//
// One artifact more holds the Applications. A tag names it, and that tag is all that ever moves: a
// push moves it forward, a push of what was before moves it back. Since the other artifacts are named
// by digest, a change reaches only the components that it is about, one wave after the other.
// In a git server it is folders, commits and a branch in place of artifacts, digests and the tag.
//
// It computes and asks nobody: it must import neither a cluster's client nor an environment.
// Start reading at application.go.
package gitops
