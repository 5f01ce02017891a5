// Package final is an extension of the collector for exporters over HTTP whose server
// answers "too many requests" to what it will not take a second later either: Loki does so
// for a line of a stream beyond its limit of streams. The exporter would try for ever, and
// what everybody else sends would wait behind it.
//
// Such an answer becomes a refusal for good, which the exporter drops, counts and logs.
//
// Newcomers start at [Config].
package final
