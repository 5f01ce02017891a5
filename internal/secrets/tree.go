package secrets

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// The format of SOPS: each value is encrypted for itself, AES-256 in GCM with a nonce of 32 bytes,
// and is bound to its place by the keys that lead to it. A MAC over all values, in order, tells
// whether one was left out, moved or put back.

const (
	dataKeySize = 32
	nonceSize   = 32
	tagSize     = 16
)

// encrypted is how SOPS writes a value.
var encrypted = regexp.MustCompile(`^ENC\[AES256_GCM,data:(.+),iv:(.+),tag:(.+),type:(.+)\]`)

// selection says which values of a file are encrypted, by the keys that lead to them. At most one
// field is set; without any, all are.
type selection struct {
	unencryptedSuffix, encryptedSuffix string
	unencryptedRegex, encryptedRegex   *regexp.Regexp
}

func (s selection) has(path []string) bool {
	any := func(is func(string) bool) bool {
		for _, key := range path {
			if is(key) {
				return true
			}
		}
		return false
	}
	switch {
	case s.unencryptedSuffix != "":
		return !any(func(k string) bool { return strings.HasSuffix(k, s.unencryptedSuffix) })
	case s.encryptedSuffix != "":
		return any(func(k string) bool { return strings.HasSuffix(k, s.encryptedSuffix) })
	case s.unencryptedRegex != nil:
		return !any(s.unencryptedRegex.MatchString)
	case s.encryptedRegex != nil:
		return any(s.encryptedRegex.MatchString)
	}
	return true
}

// macOnlyEncryptedSeed begins the MAC of a file whose MAC is over the encrypted values alone: a constant of SOPS.
var macOnlyEncryptedSeed, _ = hex.DecodeString("8a3fd2ad54ce66527b1034f3d147be0b0b975b3bf44f72c6fdadec8176f27d69")

// walker goes through the documents of a file in the order of the MAC.
type walker struct {
	selection
	mac              hash.Hash
	macOnlyEncrypted bool
	// value changes a scalar that is among the selected; plain is what it is, or was.
	value func(n *yaml.Node, path []string) (plain []byte, err error)
	// comment changes a line of one, without its "#".
	comment func(line string, path []string) (string, error)
}

func (w *walker) documents(docs []*yaml.Node) error {
	w.mac = sha512.New()
	if w.macOnlyEncrypted {
		w.mac.Write(macOnlyEncryptedSeed)
	}
	for _, doc := range docs {
		if err := w.comments(nil, &doc.HeadComment, &doc.LineComment, &doc.FootComment); err != nil {
			return err
		}
		if err := w.node(doc, nil); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) node(n *yaml.Node, path []string) error {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			if err := w.comments(path, &key.HeadComment, &key.LineComment, &key.FootComment); err != nil {
				return err
			}
			at := append(path[:len(path):len(path)], key.Value)
			of := at
			if value.Kind == yaml.ScalarNode {
				of = path
			}
			if err := w.comments(of, &value.HeadComment, &value.LineComment, &value.FootComment); err != nil {
				return err
			}
			if err := w.node(value, at); err != nil {
				return err
			}
		}
	case yaml.SequenceNode:
		for _, item := range n.Content {
			if err := w.comments(path, &item.HeadComment, &item.LineComment, &item.FootComment); err != nil {
				return err
			}
			if err := w.node(item, path); err != nil {
				return err
			}
		}
	case yaml.ScalarNode:
		if n.ShortTag() == "!!null" {
			return nil
		}
		plain, err := w.scalar(n, path)
		if err != nil {
			return fmt.Errorf("line %d: %s: %w", n.Line, strings.Join(path, "."), err)
		}
		if w.has(path) || !w.macOnlyEncrypted {
			w.mac.Write(plain)
		}
	default:
		return fmt.Errorf("line %d: anchors and aliases are not taken; write the value out", n.Line)
	}
	return nil
}

func (w *walker) scalar(n *yaml.Node, path []string) ([]byte, error) {
	if w.has(path) {
		return w.value(n, path)
	}
	plain, _, err := plainOf(n)
	return plain, err
}

func (w *walker) comments(path []string, texts ...*string) error {
	if !w.has(path) {
		return nil
	}
	for _, text := range texts {
		if *text == "" {
			continue
		}
		lines := strings.Split(*text, "\n")
		for i, line := range lines {
			if line == "" {
				continue
			}
			changed, err := w.comment(strings.TrimPrefix(line, "#"), path)
			if err != nil {
				return err
			}
			lines[i] = "#" + changed
		}
		*text = strings.Join(lines, "\n")
	}
	return nil
}

// plainOf is the bytes that SOPS takes for a scalar, and its type.
func plainOf(n *yaml.Node) (plain []byte, kind string, err error) {
	var v any
	if err := n.Decode(&v); err != nil {
		return nil, "", err
	}
	switch v := v.(type) {
	case string:
		return []byte(v), "str", nil
	case int:
		return []byte(strconv.Itoa(v)), "int", nil
	case float64:
		return []byte(strconv.FormatFloat(v, 'f', -1, 64)), "float", nil
	case bool:
		if v {
			return []byte("True"), "bool", nil
		}
		return []byte("False"), "bool", nil
	case time.Time:
		plain, err = v.MarshalText()
		return plain, "time", err
	}
	return nil, "", fmt.Errorf("a value of type %T cannot be encrypted; write it as text, in quotes", v)
}

// put makes a scalar what its plain bytes of that type say.
func put(n *yaml.Node, plain []byte, kind string) error {
	comments := [3]string{n.HeadComment, n.LineComment, n.FootComment}
	switch kind {
	case "str", "bytes":
		n.Style = 0
		n.SetString(string(plain))
	case "int", "float", "time", "bool":
		n.Kind, n.Style, n.Tag, n.Value = yaml.ScalarNode, 0, "", string(plain)
		if kind == "bool" {
			n.Value = strings.ToLower(n.Value)
		}
		if got, is, err := plainOf(n); err != nil || is != kind || string(got) != string(plain) {
			return fmt.Errorf("it is no %s", kind)
		}
	default:
		return fmt.Errorf("its type %q is not known", kind)
	}
	n.HeadComment, n.LineComment, n.FootComment = comments[0], comments[1], comments[2]
	return nil
}

// seal is the encrypted form of bytes at a place.
func seal(key, plain []byte, kind, place string) (string, error) {
	if len(plain) == 0 {
		return "", nil
	}
	gcm, err := gcmOf(key, nonceSize)
	if err != nil {
		return "", err
	}
	nonce := make([]byte, nonceSize)
	rand.Read(nonce) // never fails, see crypto/rand
	out := gcm.Seal(nil, nonce, plain, []byte(place))
	text := base64.StdEncoding.EncodeToString
	data, tag := out[:len(out)-tagSize], out[len(out)-tagSize:]
	return fmt.Sprintf("ENC[AES256_GCM,data:%s,iv:%s,tag:%s,type:%s]", text(data), text(nonce), text(tag), kind), nil
}

// errNotEncrypted is of a value in the clear where none may be.
var errNotEncrypted = errors.New("the value is not encrypted")

// unseal is the reverse of seal.
func unseal(key []byte, text, place string) (plain []byte, kind string, err error) {
	if text == "" {
		return nil, "str", nil
	}
	m := encrypted.FindStringSubmatch(text)
	if m == nil {
		return nil, "", errNotEncrypted
	}
	var parts [3][]byte
	for i := range parts {
		if parts[i], err = base64.StdEncoding.DecodeString(m[i+1]); err != nil {
			return nil, "", errors.New("the encrypted value is damaged: it is not base64")
		}
	}
	gcm, err := gcmOf(key, len(parts[1]))
	if err != nil {
		return nil, "", err
	}
	if plain, err = gcm.Open(nil, parts[1], append(parts[0], parts[2]...), []byte(place)); err != nil {
		return nil, "", errors.New("the encrypted value was changed, or belongs to another place")
	}
	return plain, m[4], nil
}

func gcmOf(key []byte, nonce int) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("the data key: %w", err)
	}
	if nonce <= 0 || nonce > 1024 {
		return nil, errors.New("the encrypted value is damaged: its nonce has no sensible length")
	}
	return cipher.NewGCMWithNonceSize(block, nonce)
}

func place(path []string) string { return strings.Join(path, ":") + ":" }

// encrypter changes all selected values to their encrypted form.
func encrypter(s selection, key []byte) *walker {
	w := &walker{selection: s}
	w.value = func(n *yaml.Node, path []string) ([]byte, error) {
		plain, kind, err := plainOf(n)
		if err != nil {
			return nil, err
		}
		text, err := seal(key, plain, kind, place(path))
		if err != nil {
			return nil, err
		}
		n.Kind, n.Tag, n.Style, n.Value = yaml.ScalarNode, "!!str", 0, text
		if text == "" {
			n.Style = yaml.DoubleQuotedStyle
		}
		return plain, nil
	}
	w.comment = func(line string, path []string) (string, error) {
		return seal(key, []byte(line), "comment", place(path))
	}
	return w
}

// decrypter is the reverse of encrypter.
func decrypter(s selection, key []byte) *walker {
	w := &walker{selection: s}
	w.value = func(n *yaml.Node, path []string) ([]byte, error) {
		plain, kind, err := unseal(key, n.Value, place(path))
		if err != nil {
			return nil, err
		}
		return plain, put(n, plain, kind)
	}
	w.comment = func(line string, path []string) (string, error) {
		plain, _, err := unseal(key, line, place(path))
		if err != nil {
			return line, nil //nolint:nilerr // somebody wrote or moved it since: comments are in no MAC
		}
		return string(plain), nil
	}
	return w
}

// inspector notes the selected values that are in the clear, and changes nothing.
func inspector(s selection, found func(n *yaml.Node, path []string)) *walker {
	w := &walker{selection: s}
	w.value = func(n *yaml.Node, path []string) ([]byte, error) {
		if n.Value != "" && !encrypted.MatchString(n.Value) {
			found(n, path)
		}
		return nil, nil
	}
	w.comment = func(line string, _ []string) (string, error) { return line, nil }
	return w
}

// sum is the MAC, as SOPS writes it before it encrypts it.
func (w *walker) sum() string { return fmt.Sprintf("%X", w.mac.Sum(nil)) }
