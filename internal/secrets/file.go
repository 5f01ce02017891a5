package secrets

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	"go.yaml.in/yaml/v3"

	"github.com/orrery-dev/orrery/internal/atomicfile"
)

// Errors that callers tell apart.
var (
	// ErrNoKey: this machine has no key at all.
	ErrNoKey = errors.New("there is no age key here")
	// ErrWrongKey: the file was not encrypted for any key that is here.
	ErrWrongKey = errors.New("encrypted for other keys than those here")
	// ErrTampered: somebody changed the file without the key, or cut it short.
	ErrTampered = errors.New("changed by somebody without the key")
	// ErrPlain: the file, or a value of it, is not encrypted.
	ErrPlain = errors.New("not encrypted")
)

// maxSize bounds a file, in bytes: secrets are small, and all of it is held in memory.
const maxSize = 4 << 20

// version is that of SOPS whose format is written.
const version = "3.13.3"

// File is an encrypted file, decrypted: YAML, of one document or several. Its values are in
// memory only.
type File struct {
	docs       []*yaml.Node // each a DocumentNode's content
	recipients []string
	foreign    []string // kinds of keys besides age's that can decrypt it
	selection  selection
	macOnly    bool
}

// metadata is the key "sops" of an encrypted document.
type metadata struct {
	Age []struct {
		Recipient string `yaml:"recipient"`
		Enc       string `yaml:"enc"`
	} `yaml:"age"`
	LastModified      string         `yaml:"lastmodified"`
	MAC               string         `yaml:"mac"`
	UnencryptedSuffix string         `yaml:"unencrypted_suffix,omitempty"`
	EncryptedSuffix   string         `yaml:"encrypted_suffix,omitempty"`
	UnencryptedRegex  string         `yaml:"unencrypted_regex,omitempty"`
	EncryptedRegex    string         `yaml:"encrypted_regex,omitempty"`
	MACOnlyEncrypted  bool           `yaml:"mac_only_encrypted,omitempty"`
	Version           string         `yaml:"version"`
	Others            map[string]any `yaml:",inline"`
}

// otherKeys are the kinds of keys of SOPS besides age's.
var otherKeys = []string{"kms", "gcp_kms", "hckms", "azure_kv", "hc_vault", "pgp", "key_groups"}

const metadataKey = "sops"

// read has the bytes of a file that may hold secrets, or hide a fault.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(data) > maxSize {
		err = fmt.Errorf("%s has more than %d MiB; secrets are small", path, maxSize>>20)
	}
	return data, err
}

// Open reads and decrypts a file. Nothing of it is given out unless all of it is as it was
// written. Errors name the file, never a value.
func Open(path string, keys []age.Identity) (*File, error) {
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	f, err := Decrypt(data, keys)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// Decrypt is [Open] of bytes.
func Decrypt(data []byte, keys []age.Identity) (*File, error) {
	docs, err := parse(data)
	if err != nil {
		return nil, err
	}
	m, err := takeMetadata(docs)
	if err != nil {
		return nil, err
	}
	f, err := m.file(docs)
	if err != nil {
		return nil, err
	}
	key, err := m.dataKey(keys)
	if err != nil {
		return nil, err
	}
	w := decrypter(f.selection, key)
	w.macOnlyEncrypted = m.MACOnlyEncrypted
	if err := w.documents(f.docs); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTampered, err)
	}
	mac, _, err := unseal(key, m.MAC, m.LastModified)
	if err != nil || subtle.ConstantTimeCompare(mac, []byte(w.sum())) != 1 {
		return nil, fmt.Errorf("%w: values were taken out, put in, moved or put back: the MAC is of other ones", ErrTampered)
	}
	return f, nil
}

// parse reads the documents of a file.
func parse(data []byte) ([]*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var docs []*yaml.Node
	for {
		var doc yaml.Node
		if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, clean(err)
		}
		if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
			return nil, fmt.Errorf("line %d: a document must be a mapping", doc.Line)
		}
		if err := unique(doc.Content[0], 0); err != nil {
			return nil, err
		}
		doc.Content[0].HeadComment = strings.TrimSpace(doc.HeadComment + "\n" + doc.Content[0].HeadComment)
		docs = append(docs, doc.Content[0])
	}
	if len(docs) == 0 {
		return nil, errors.New("the file is empty, or cut short")
	}
	return docs, nil
}

// clean takes out of an error of the YAML library what it quotes of the file.
func clean(err error) error {
	text, _, _ := strings.Cut(err.Error(), "`")
	return errors.New(strings.TrimRight(strings.TrimPrefix(text, "yaml: "), " "))
}

const maxDepth = 64

// unique refuses keys that come twice, aliases, and documents that are too deep.
func unique(n *yaml.Node, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("line %d: more than %d levels", n.Line, maxDepth)
	}
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		return fmt.Errorf("line %d: anchors and aliases are not taken; write the value out", n.Line)
	}
	if n.Kind == yaml.MappingNode {
		keys := map[string]bool{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			if key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str" {
				return fmt.Errorf("line %d: a key must be text", key.Line)
			}
			if keys[key.Value] {
				return fmt.Errorf("line %d: the key %q is given twice", key.Line, key.Value)
			}
			keys[key.Value] = true
		}
	}
	for _, c := range n.Content {
		if err := unique(c, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// takeMetadata takes the key "sops" out of every document; those of all are the same.
func takeMetadata(docs []*yaml.Node) (metadata, error) {
	var m metadata
	for i, doc := range docs {
		at := slices.IndexFunc(doc.Content, func(n *yaml.Node) bool { return n.Value == metadataKey })
		if at < 0 || at%2 != 0 {
			return m, fmt.Errorf("document %d: %w: it has no key %q; 'orrery secrets edit' or 'sops encrypt' make it one", i+1, ErrPlain, metadataKey)
		}
		var one metadata
		if err := doc.Content[at+1].Decode(&one); err != nil {
			return m, fmt.Errorf("line %d: %s: %w", doc.Content[at].Line, metadataKey, clean(err))
		}
		if i == 0 {
			m = one
		} else if one.MAC != m.MAC {
			return m, fmt.Errorf("document %d: %w: it has the MAC of another file", i+1, ErrTampered)
		}
		doc.Content = slices.Delete(doc.Content, at, at+2)
	}
	return m, nil
}

// file is what the metadata says besides keys.
func (m metadata) file(docs []*yaml.Node) (*File, error) {
	f := &File{docs: docs, macOnly: m.MACOnlyEncrypted, selection: selection{unencryptedSuffix: m.UnencryptedSuffix, encryptedSuffix: m.EncryptedSuffix}}
	err := errors.Join(
		compile("unencrypted_regex", m.UnencryptedRegex, &f.selection.unencryptedRegex),
		compile("encrypted_regex", m.EncryptedRegex, &f.selection.encryptedRegex))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", metadataKey, err)
	}
	for _, a := range m.Age {
		f.recipients = append(f.recipients, a.Recipient)
	}
	for _, kind := range otherKeys {
		if list, ok := m.Others[kind].([]any); ok && len(list) > 0 {
			f.foreign = append(f.foreign, kind)
		}
	}
	for _, field := range []string{"unencrypted_comment_regex", "encrypted_comment_regex"} {
		if m.Others[field] != nil {
			return nil, fmt.Errorf("%s: values that comments select are not understood here; use sops itself", field)
		}
	}
	return f, nil
}

// compile reads a regular expression of a field that may be left out.
func compile(field, text string, to **regexp.Regexp) (err error) {
	if text == "" {
		return nil
	}
	if *to, err = regexp.Compile(text); err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	return nil
}

// dataKey is the key of all values, out of the first entry that one of the keys opens.
func (m metadata) dataKey(keys []age.Identity) ([]byte, error) {
	if len(keys) == 0 {
		return nil, ErrNoKey
	}
	var recipients []string
	for _, a := range m.Age {
		recipients = append(recipients, a.Recipient)
		r, err := age.Decrypt(armor.NewReader(strings.NewReader(a.Enc)), keys...)
		if err != nil {
			continue
		}
		key, err := io.ReadAll(io.LimitReader(r, dataKeySize+1))
		if err != nil || len(key) != dataKeySize {
			return nil, fmt.Errorf("%w: the data key for %s is damaged", ErrTampered, a.Recipient)
		}
		return key, nil
	}
	if len(recipients) == 0 {
		return nil, fmt.Errorf("%w: no recipient of age is named in it", ErrWrongKey)
	}
	return nil, fmt.Errorf("%w: it is for %s; who has one of those can add yours: orrery secrets rotate --add-recipient", ErrWrongKey, strings.Join(recipients, ", "))
}

// Recipients are those of age that can decrypt the file, in its order.
func (f *File) Recipients() []string { return slices.Clone(f.recipients) }

// Encrypt writes the file with a new data key for these recipients.
func (f *File) Encrypt(recipients []string, now time.Time) ([]byte, error) {
	if len(f.foreign) > 0 {
		return nil, fmt.Errorf("keys of the kind %s can decrypt it too, which only sops can encrypt for: use sops", strings.Join(f.foreign, ", "))
	}
	if len(recipients) == 0 {
		return nil, errors.New("nobody would be able to decrypt it: name a recipient")
	}
	key := make([]byte, dataKeySize)
	rand.Read(key) // never fails, see crypto/rand
	m := metadata{
		LastModified: now.UTC().Format(time.RFC3339), Version: version, MACOnlyEncrypted: f.macOnly,
		UnencryptedSuffix: f.selection.unencryptedSuffix, EncryptedSuffix: f.selection.encryptedSuffix,
	}
	if r := f.selection.unencryptedRegex; r != nil {
		m.UnencryptedRegex = r.String()
	}
	if r := f.selection.encryptedRegex; r != nil {
		m.EncryptedRegex = r.String()
	}
	for _, recipient := range recipients {
		enc, err := wrap(key, recipient)
		if err != nil {
			return nil, err
		}
		m.Age = append(m.Age, struct {
			Recipient string `yaml:"recipient"`
			Enc       string `yaml:"enc"`
		}{recipient, enc})
	}
	docs, err := f.clone()
	if err != nil {
		return nil, err
	}
	w := encrypter(f.selection, key)
	w.macOnlyEncrypted = f.macOnly
	if err := w.documents(docs); err != nil {
		return nil, err
	}
	if m.MAC, err = seal(key, []byte(w.sum()), "str", m.LastModified); err != nil {
		return nil, err
	}
	var node yaml.Node
	if err := node.Encode(m); err != nil {
		return nil, err
	}
	for _, doc := range docs {
		doc.Content = append(doc.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: metadataKey, Tag: "!!str"}, &node)
	}
	return format(docs)
}

func wrap(key []byte, recipient string) (string, error) {
	r, err := age.ParseX25519Recipient(recipient)
	if err != nil {
		return "", fmt.Errorf("recipient %q: %w", recipient, err)
	}
	var text bytes.Buffer
	a := armor.NewWriter(&text)
	w, err := age.Encrypt(a, r)
	if err != nil {
		return "", err
	}
	if _, err := w.Write(key); err != nil {
		return "", err
	}
	if err := errors.Join(w.Close(), a.Close()); err != nil {
		return "", err
	}
	return text.String(), nil
}

func format(docs []*yaml.Node) ([]byte, error) {
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(4)
	for _, doc := range docs {
		if err := enc.Encode(doc); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), enc.Close()
}

// clone is a copy of the documents, which encrypting changes.
func (f *File) clone() ([]*yaml.Node, error) {
	data, err := format(f.docs)
	if err != nil {
		return nil, err
	}
	return parse(data)
}

// Plain is the file in the clear, for an editor.
func (f *File) Plain() ([]byte, error) { return format(f.docs) }

// Redacted is the file with a mark in the place of each value that is secret.
func (f *File) Redacted() ([]byte, error) {
	docs, err := f.clone()
	if err != nil {
		return nil, err
	}
	w := &walker{selection: f.selection}
	w.value = func(n *yaml.Node, _ []string) ([]byte, error) {
		n.Value, n.Tag, n.Style = fmt.Sprintf("(%d characters)", len([]rune(n.Value))), "!!str", 0
		return nil, nil
	}
	w.comment = func(string, []string) (string, error) { return " (a comment)", nil }
	if err := w.documents(docs); err != nil {
		return nil, err
	}
	return format(docs)
}

// Replace takes what an editor made of [File.Plain].
func (f *File) Replace(plain []byte) error {
	docs, err := parse(plain)
	if err != nil {
		return err
	}
	for _, doc := range docs {
		for i := 0; i < len(doc.Content); i += 2 {
			if doc.Content[i].Value == metadataKey {
				return fmt.Errorf("line %d: the key %q is SOPS' own", doc.Content[i].Line, metadataKey)
			}
		}
	}
	f.docs = docs
	return nil
}

// Save encrypts the file and puts it in the place of what was there.
func (f *File) Save(path string, recipients []string) error {
	data, err := f.Encrypt(recipients, time.Now())
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	f.recipients = recipients
	return atomicfile.Write(path, data, 0o644)
}

// CanEncrypt says what is against encrypting for these recipients; nothing is written.
func (f *File) CanEncrypt(recipients []string) error {
	_, err := f.Encrypt(recipients, time.Now())
	return err
}

// Random is a value that nobody chose: 40 letters and digits, which need no quoting anywhere.
func Random() string {
	const size = 40
	return rand.Text() + rand.Text()[:size-26]
}
