// Package secrets keeps secret values in the repository, encrypted: files that SOPS and age made,
// or that they can read, decrypted in memory and nowhere else (https://getsops.io,
// https://age-encryption.org/v1). Only recipients of age are known; a file with another kind beside
// them can be read, and is written by sops alone.
//
// It prints nothing, runs nothing and knows no cluster. Start reading at file.go; tree.go is the
// format.
package secrets
