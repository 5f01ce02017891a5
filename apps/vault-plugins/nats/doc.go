// Package nats is a secrets engine of Vault that signs NATS user credentials which end with their lease.
//
// NATS runs in operator mode. A credential is a key pair made for one lease and a JWT signed by a
// signing key of the account. The JWT ends at the longest the lease may live, so a NATS that Vault
// cannot reach still lets nobody in after that. The lease is shorter: when it ends, or is
// revoked, the key goes on the account's list of revocations, the account is signed again by the
// operator's key and pushed to the servers, which close the connections of that key. Renewing
// prolongs the lease and leaves the JWT as it is.
//
// Newcomers start at [Factory], then creds.go and account.go.
package nats
