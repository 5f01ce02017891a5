// Package gitopstest stands in for Argo CD on a cluster of kubetest: it reads the artifacts that
// Applications name, makes the Applications of the root's, and says how they are. What it applies
// it leaves as it is.
//
// It is for tests only and must never be linked into a program.
package gitopstest
