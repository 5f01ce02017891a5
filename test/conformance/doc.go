// Command conformance runs Kubernetes' own end-to-end tests against an environment and
// writes down what came of each case: passed, failed or not run, and why.
//
//	go run ./test/conformance                          sig-network's conformance cases on ptp
//	go run ./test/conformance -plugin cilium -set netpol
//	go run ./test/conformance -set conformance         the whole conformance list
//	go run ./test/conformance -set conformance -rest   what that run, ended early, left
//	go run ./test/conformance -set short               a dozen, for CI
//	go run ./test/conformance -focus 'session affinity' -results ''    look at some cases
//	go run ./test/conformance -render                  write the table again from the results
//
// The tests are compiled from the module that the nodes' Kubernetes is compiled from, at the
// same version; folder suite pins it, apart from the main module, which must not grow by what
// they need. The first build takes about fifteen CPU-minutes less what the distribution has
// compiled already: both use the builders' Go cache.
//
// The tests run pods of images that a machine without a registry does not have. images.yaml
// says what stands in for each: the programs of the module, compiled here, on a file system of
// Debian packages, which apt checks and a cache keeps; nothing is installed on the host. A case
// whose image nothing honest stands in for is not run, and that is its reason.
//
// It needs root, Go, apt and dpkg-deb. Start reading at main.go.
package main
