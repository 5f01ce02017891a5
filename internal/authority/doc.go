// Package authority makes an environment's certificate authority and the first certificates that
// it signs, as PEM. It is pure but for the randomness of keys: it knows no cluster and no file.
//
// Who renews them is cert-manager, where there is one; see docs/adr/0050.
//
// Start reading at authority.go.
package authority
