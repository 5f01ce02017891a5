// Package bundletest is a platform for tests that is as small as one can be: a repository
// with a catalogue of three components ([Write]), images and programs of nodes that are a few
// bytes and were compiled by nobody, the lock that they satisfy, and the bundle that they come
// in. A test deploys it from the bundle, or from the repository once the bundle is imported.
//
// It is for tests only and must never be linked into a program.
// Start reading at small.txtar, which is the repository, and at bundletest.go.
package bundletest
