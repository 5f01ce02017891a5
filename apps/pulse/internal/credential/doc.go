// Package credential is what pulse logs in to NATS with: a credential that Vault leases, for as long as
// there is one, else that of a file.
//
// Vault is asked with the pod's service-account token. Each credential hangs on a login of its
// own, which is renewed with it and revoked once the next credential is in use. A Vault that is away
// ends nothing: the credential lives until its JWT does, and Vault is asked again all the while.
//
// Newcomers start at [Keeper].
package credential
