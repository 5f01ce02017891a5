// Package pinned has files of public repositories, such as the CRDs of an operator: by address,
// commit and SHA-256, out of the cache, an imported bundle, a mirror of a company, or from where
// they are published. What comes is hashed before anybody sees it, so that nobody who serves it
// needs to be trusted.
//
// It knows no component and no environment. Start reading at pinned.go.
package pinned
