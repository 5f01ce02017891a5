// Package licence tells under which licence a module is, by reading the licence files at
// its root, and whether the repository's policy allows it. It looks at files only: who
// calls it knows where modules are.
//
// Start reading at licence.go; policy.go is the allow list.
package licence
