// Package natsjwt signs what NATS in operator mode believes: an operator, its accounts, and users.
//
// Everything follows from seeds, so a JWT that is lost is signed again; one that says already what
// it should is kept, for servers compare versions by the second they were signed in. It imports
// nothing of ours. Newcomers start at [Claim].
package natsjwt
