package gitops

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
)

// ErrSecret is wrapped when something secret would be pushed.
var ErrSecret = errors.New("a secret would be pushed")

// private are the forms of keys that nobody publishes: PEM, seeds of NATS, keys of age, tokens of Vault.
var private = regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----|\bS[AOUNCX][A-Z2-7]{56}\b|AGE-SECRET-KEY-1[A-Z0-9]+|\bhvs\.[A-Za-z0-9_-]{20,}`)

// shortest is how long a value is that is looked for: shorter ones are in texts by chance.
const shortest = 12

// RefuseSecrets refuses a manifest with a key in it, or with one of the values that Secrets of the
// cluster have ("NAMESPACE/NAME KEY" → value), in the clear or as Secrets write it down.
func RefuseSecrets(component string, manifest []byte, values map[string][]byte) error {
	var errs []error
	for _, text := range append([][]byte{manifest}, decoded(manifest)...) {
		if private.Match(text) {
			errs = append(errs, fmt.Errorf("component %s: %w: its manifest has a private key", component, ErrSecret))
			break
		}
	}
	for name, value := range values {
		if len(value) < shortest {
			continue
		}
		if bytes.Contains(manifest, value) || bytes.Contains(manifest, []byte(base64.StdEncoding.EncodeToString(value))) {
			errs = append(errs, fmt.Errorf("component %s: %w: its manifest has the value of Secret %s", component, ErrSecret, name))
		}
	}
	return errors.Join(errs...)
}

var encoded = regexp.MustCompile(`[A-Za-z0-9+/]{40,}={0,2}`)

// decoded are the texts that are in the manifest as base64, as data of a Secret is.
func decoded(manifest []byte) [][]byte {
	var all [][]byte
	for _, word := range encoded.FindAll(manifest, -1) {
		if text, err := base64.StdEncoding.DecodeString(string(word)); err == nil {
			all = append(all, text)
		}
	}
	return all
}
