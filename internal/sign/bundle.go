package sign

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
)

// Media types and predicate types of what is attached to an image.
const (
	bundleType    = "application/vnd.dev.sigstore.bundle.v0.3+json"
	payloadType   = "application/vnd.in-toto+json"
	statementType = "https://in-toto.io/Statement/v1"

	// SignaturePredicate is that of a statement by which cosign v3 signs an image.
	SignaturePredicate = "https://sigstore.dev/cosign/sign/v1"
	// ProvenancePredicate is SLSA provenance v1.
	ProvenancePredicate = "https://slsa.dev/provenance/v1"
	// SBOMPredicate is CycloneDX.
	SBOMPredicate = "https://cyclonedx.org/bom"
)

// bundle is the part of a sigstore bundle v0.3 that a signature by a key needs:
// https://github.com/sigstore/protobuf-specs. There is no transparency log in it.
type bundle struct {
	MediaType    string   `json:"mediaType"`
	Verification material `json:"verificationMaterial"`
	Envelope     envelope `json:"dsseEnvelope"`
}

type material struct {
	PublicKey struct {
		Hint string `json:"hint"`
	} `json:"publicKey"`
}

// envelope is DSSE: https://github.com/secure-systems-lab/dsse.
type envelope struct {
	Payload     []byte      `json:"payload"`
	PayloadType string      `json:"payloadType"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	Sig []byte `json:"sig"`
}

// statement is an in-toto statement v1, with the predicate as it stands.
type statement struct {
	Type          string          `json:"_type"`
	Subject       []subject       `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
}

type subject struct {
	Name   string            `json:"name,omitempty"`
	Digest map[string]string `json:"digest"`
}

// about reports whether the statement is about the image with this digest.
func (s statement) about(digest string) bool {
	for _, sub := range s.Subject {
		if sub.Digest["sha256"] != "" && "sha256:"+sub.Digest["sha256"] == digest {
			return true
		}
	}
	return false
}

// encoded is what DSSE signs (PAE).
func encoded(kind string, payload []byte) []byte {
	head := fmt.Sprintf("DSSEv1 %d %s %d ", len(kind), kind, len(payload))
	return append([]byte(head), payload...)
}

// makeStatement is a statement about an image, with the predicate byte for byte.
func makeStatement(digest, predicateType string, predicate []byte) ([]byte, error) {
	predicate = bytes.TrimSpace(predicate)
	if !json.Valid(predicate) {
		return nil, fmt.Errorf("the predicate of type %s is no JSON", predicateType)
	}
	head, err := json.Marshal(struct {
		Type          string    `json:"_type"`
		Subject       []subject `json:"subject"`
		PredicateType string    `json:"predicateType"`
	}{statementType, []subject{{Digest: map[string]string{"sha256": strings.TrimPrefix(digest, "sha256:")}}}, predicateType})
	if err != nil {
		return nil, err
	}
	// Not by the encoder, which would change the white space that the lock's digest is over.
	return bytes.Join([][]byte{bytes.TrimSuffix(head, []byte("}")), []byte(`,"predicate":`), predicate, []byte("}")}, nil), nil
}

// signStatement puts a statement into a bundle.
func (k *Key) signStatement(payload []byte) ([]byte, error) {
	sig, err := k.SignBlob(encoded(payloadType, payload))
	if err != nil {
		return nil, err
	}
	b := bundle{MediaType: bundleType, Envelope: envelope{Payload: payload, PayloadType: payloadType, Signatures: []signature{{sig}}}}
	b.Verification.PublicKey.Hint = k.public.hint()
	return json.Marshal(b)
}

// parseBundle reads a bundle without believing it.
func parseBundle(data []byte) (bundle, error) {
	var b bundle
	if err := json.Unmarshal(data, &b); err != nil {
		return b, fmt.Errorf("not a sigstore bundle: %w", err)
	}
	switch {
	case b.MediaType != bundleType:
		return b, fmt.Errorf("a bundle of type %q and not %q", b.MediaType, bundleType)
	case b.Envelope.PayloadType != payloadType:
		return b, fmt.Errorf("a payload of type %q and not %q", b.Envelope.PayloadType, payloadType)
	case len(b.Envelope.Signatures) != 1:
		return b, fmt.Errorf("%d signatures in the bundle and not one", len(b.Envelope.Signatures))
	}
	return b, nil
}

// verify returns the statement in a bundle and the key that signed it: one of keys.
// Errors wrap [ErrWrongKey] or [ErrTampered].
func (b bundle) verify(keys []PublicKey) (statement, PublicKey, error) {
	var s statement
	signed := encoded(b.Envelope.PayloadType, b.Envelope.Payload)
	hint := b.Verification.PublicKey.Hint
	for _, k := range keys {
		if k.VerifyBlob(signed, b.Envelope.Signatures[0].Sig) != nil {
			if k.key != nil && hint == k.hint() {
				return s, k, mistake(ErrTampered, "it says that %s signed it, which did not", k.Fingerprint())
			}
			continue
		}
		if err := json.Unmarshal(b.Envelope.Payload, &s); err != nil {
			return s, k, mistake(ErrTampered, "what is signed is no in-toto statement: %w", err)
		}
		if s.Type != statementType {
			return s, k, mistake(ErrTampered, "what is signed is a %q and no in-toto statement v1", s.Type)
		}
		return s, k, nil
	}
	return s, PublicKey{}, mistake(ErrWrongKey, "signed by %s, which is not trusted", named(hint))
}

// named is a key's fingerprint, as far as a bundle's hint tells it.
func named(hint string) string {
	raw, err := base64.StdEncoding.DecodeString(hint)
	if err != nil || len(raw) != 32 {
		return "an unnamed key"
	}
	return fmt.Sprintf("SHA256:%x", raw)
}
