// Package smoketest answers for the pods of smoke checks on a cluster of kubetest, where no
// pod runs: [Probe] is what the program probe (apps/probe) would say on a network without
// faults and without policies. With it, the checks of a cluster pass on the fake driver.
//
// It is for tests only and must never be linked into a program.
package smoketest
