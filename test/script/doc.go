// Package script holds journeys through the command line that need no cluster: what a
// person types and what they see, as testscript files in testdata.
//
// Journeys on a running platform are in test/e2e.
package script
