// Package kubeconfig puts a context into a person's kubeconfig and takes it out again. The
// file is theirs: it is edited and not written anew, so that fields that nobody here knows
// stay, and so do its owner, its mode and the link that may lead to it.
//
// It imports nothing of this module but atomicfile.
package kubeconfig
