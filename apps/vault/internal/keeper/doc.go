// Package keeper looks after a Vault from outside, through its API.
//
// It initialises one that is new, and only such a one: the recovery key goes to a Secret, and the
// root token is revoked as soon as the keeper's own service account can log in. Then it applies
// files (see [Desired]) again and again, so that what is in Vault's configuration is what is in
// the files and the cluster's keys for service accounts are those of today. A Vault that lost its
// data is not made anew by itself: that would hide the loss.
//
// Start reading at run.go; desired.go has the files, apply.go applies them, snapshot.go and
// check.go are the other verbs.
package keeper
