// Package imports holds all others to what they may import, as a test: the rules stand in
// imports_test.go, and in the doc.go of the packages that they are about.
package imports
