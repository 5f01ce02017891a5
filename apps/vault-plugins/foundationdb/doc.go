// Package foundationdb is a secrets engine of Vault that issues client certificates for FoundationDB.
//
// FoundationDB knows a client by the certificate that it shows: its rules of verification
// (tls_verify_peers) name the authority, and fields of subject and issuer. It reads no list of
// revocations, so a certificate cannot be taken back. Therefore a certificate ends exactly with its
// lease, the lease is not renewed but replaced, and a role allows a day at the most. Revoking a
// lease early ends nothing on FoundationDB's side: what does is another authority (config/rotate).
//
// Newcomers start at [Factory], then creds.go.
package foundationdb
