// Package golden compares what a test made with a file under review. It defines the flag
// -update of the tests that import it, so nothing else may.
package golden
