package native

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// atRestKey encrypts objects in etcd. Its name is written before what it encrypted, so that no two
// keys of an environment may ever have the same.
type atRestKey struct {
	name   string
	secret string // 32 bytes in base64
}

// keyring are the keys that API servers read with, in the order in which they try them. The first
// one writes. The file has a line for each, "NAME KEY"; environments from before keys had names
// have one key alone.
type keyring []atRestKey

const (
	keyringFile  = "encryption.key"  // in pki
	atRestConfig = "encryption.yaml" // in the pki folder of a server
	firstKey     = "key1"
)

// encryptedResources are what is encrypted in etcd.
var encryptedResources = []string{"secrets", "configmaps"}

func parseKeyring(file string, content []byte) (keyring, error) {
	var r keyring
	for line := range strings.Lines(string(content)) {
		k := atRestKey{name: firstKey}
		switch f := strings.Fields(line); len(f) {
		case 0:
			continue
		case 1:
			k.secret = f[0]
		case 2:
			k.name, k.secret = f[0], f[1]
		}
		if b, err := base64.StdEncoding.DecodeString(k.secret); err != nil || len(b) != 32 || r.has(k.name) || !keyName.MatchString(k.name) {
			return nil, damagedKeyring(file)
		}
		r = append(r, k)
	}
	if len(r) == 0 {
		return nil, damagedKeyring(file)
	}
	return r, nil
}

var keyName = regexp.MustCompile(`^key[0-9]+$`)

func damagedKeyring(file string) error {
	return fmt.Errorf("%s is damaged: want a line 'NAME KEY' for each key, of 32 bytes in base64; "+
		"restore it from a backup, or from %s of a server", file, atRestConfig)
}

func (r keyring) has(name string) bool {
	for _, k := range r {
		if k.name == name {
			return true
		}
	}
	return false
}

// covers: all keys of other are among these.
func (r keyring) covers(other keyring) bool {
	for _, k := range other {
		found := false
		for _, have := range r {
			found = found || have == k
		}
		if !found {
			return false
		}
	}
	return true
}

func (r keyring) String() string {
	var b strings.Builder
	for _, k := range r {
		fmt.Fprintf(&b, "%s %s\n", k.name, k.secret)
	}
	return b.String()
}

// config is what API servers are told. What they find unencrypted they read too: it is from before
// its kind was encrypted.
func (r keyring) config() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [%s]
  providers:
  - secretbox:
      keys:
`, strings.Join(encryptedResources, ", "))
	for _, k := range r {
		fmt.Fprintf(&b, "      - name: %s\n        secret: %s\n", k.name, k.secret)
	}
	b.WriteString("  - identity: {}\n")
	return []byte(b.String())
}

var configuredKey = regexp.MustCompile(`(?m)^ *- name: (\S+)\n *secret: (\S+)$`)

// configuredKeys are those of a server's file.
func configuredKeys(config []byte) (r keyring) {
	for _, m := range configuredKey.FindAllSubmatch(config, -1) {
		r = append(r, atRestKey{string(m[1]), string(m[2])})
	}
	return r
}

// next is a new key with a name that none had.
func (r keyring) next() atRestKey {
	most := 0
	for _, k := range r {
		n, _ := strconv.Atoi(strings.TrimPrefix(k.name, "key"))
		most = max(most, n)
	}
	return newAtRestKey(fmt.Sprintf("key%d", most+1))
}

func newAtRestKey(name string) atRestKey {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // it never fails
	return atRestKey{name, base64.StdEncoding.EncodeToString(b)}
}

// readKeyring keeps or makes the keys.
func readKeyring(path string) (keyring, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		r := keyring{newAtRestKey(firstKey)}
		_, err = writeFile(path, []byte(r.String()))
		return r, err
	}
	if err != nil {
		return nil, err
	}
	return parseKeyring(path, bytes.TrimSpace(b))
}
