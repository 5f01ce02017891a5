// Package unread is an operator of the collector's file_log receiver that counts what of containers'
// logs is deleted before it was read. Kubelets set a file aside when it is large and delete the
// oldest, whether anybody has read it or not: when the reader is held up for long, lines are lost,
// and nothing else would tell.
//
// It stands first among the operators, sees how far each file was read, and looks at the folder once
// a second. What was there before it started, and is not read from, does not count: it may have been
// read by an earlier process.
//
// Newcomers start at [Config]; ledger.go has what is known of the files.
package unread
