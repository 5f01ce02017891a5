// Package flushed is an extension of the collector for exporters over HTTP whose server
// acknowledges before it has written: Tempo holds spans in memory for up to a second, and
// one that is killed loses them although it said that it had them.
//
// What the server has acknowledged counts as delivered only once it had time to write it
// and is still the same process; until then it stays in the exporter's queue, which is on a
// disk, and is sent again otherwise. Tempo takes a span twice as one.
//
// Newcomers start at [Config] and keeper.RoundTrip.
package flushed
