// Command bench measures what orrery promises about time and size, on the machine that it
// runs on, and prints each figure beside the promise. It asserts nothing: numbers from a
// busy or small machine are not failures.
//
//	go run ./test/bench                  all figures with warm caches, median of 3 runs
//	go run ./test/bench -cold            also a build with an empty cache
//	go run ./test/bench -cold -idle=false -runs 0    only that
//	go run ./test/bench -idle=false      without the minutes of idling
//	go run ./test/bench -only images     one part: cluster, platform, network, images or bundle
//	go run ./test/bench -against v0.1.0  up, up again and down of both revisions in turns
//	go run ./test/bench -o json
//
// It needs root. Its environments live in a folder of their own and are removed at the end.
package main
