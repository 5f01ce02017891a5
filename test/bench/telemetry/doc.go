// Command telemetry measures what the collector, Loki and Tempo take in, with the
// configurations of the catalogue, and whether all of it is there afterwards, also when
// one of them is killed in the middle. It needs no cluster: the programs run as processes
// on 127.0.0.1, the two collectors on two cores.
//
//	go run ./test/bench/telemetry                 10,000 spans and lines a second for 30 s
//	go run ./test/bench/telemetry -kill loki      and Loki is killed, and back after 5 s
//
// Newcomers start at measure.
package main
