// Package sign says who stands for an image, and checks it. It makes the key pair of an
// environment, attaches signature, bill of materials and provenance to images in a
// registry (a mirror, or one of a person's) in the form that cosign reads (sigstore bundles of
// DSSE envelopes, as OCI referrers), and verifies what it reads back from there. docs/reference/signatures.md
// has the formats.
//
// It must not link sigstore's own libraries, which bring the SDKs of every cloud: the
// formats are small. That the real cosign accepts them is tested.
//
// Start reading at attach.go and verify.go; key.go has the keys.
package sign
