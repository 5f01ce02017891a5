// Package ingest takes events in and answers for them: an event that it calls
// acknowledged is on the disks of a majority of the NATS servers, and in the ledger. One
// that it calls kept is on its own disk, and it goes on trying. Anything else the sender
// sends again, under the same number.
//
// Newcomers start at [Ingest.Send].
package ingest
