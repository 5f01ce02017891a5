// Package ledger is the account of what was sent, acknowledged and delivered. It is kept
// in a JetStream key-value bucket, so that it survives every process that writes to it.
//
// A producer has two records: one that ingest writes before it tells anybody that an
// event is acknowledged, and one that workers write before they acknowledge a delivery.
// Both are sets that only grow and are merged by union under compare-and-swap: any number
// of replicas may write the same record, in any order, again after a crash, and the result
// is the same. What is acknowledged and not delivered is then a matter of subtraction.
//
// It reads from the leader of the bucket alone, never from a replica that may be behind.
//
// Newcomers start at [Account] and [Ledger.Intake].
package ledger
