package secrets

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
)

const sentinel = "s3ntinel-value"

const plainFile = `# for everybody
apiVersion: v1
kind: Secret
metadata:
    namespace: messaging
    name: nats-app
stringData:
    # a secret comment
    password: ` + sentinel + ` # and another
    number: 17
    float: 1.5
    yes: true
    empty: ""
    lines: |
        one
        two
    list: [a, 'b: c', null]
---
apiVersion: v1
kind: Secret
metadata: {namespace: data, name: other}
data: {key: c2VjcmV0}
`

func newKey(t testing.TB) (*age.X25519Identity, string) {
	t.Helper()
	k, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return k, k.Recipient().String()
}

// manifests is the plain file, ready to be encrypted.
func manifests(t testing.TB, text string) *File {
	t.Helper()
	f := NewManifests()
	if err := f.Replace([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return f
}

func mustEncrypt(t testing.TB, f *File, recipients ...string) []byte {
	t.Helper()
	data, err := f.Encrypt(recipients, time.Unix(1_800_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestRoundTrip(t *testing.T) {
	key, recipient := newKey(t)
	f := manifests(t, plainFile)
	before, err := f.Plain()
	if err != nil {
		t.Fatal(err)
	}
	data := mustEncrypt(t, f, recipient)
	for _, secret := range []string{sentinel, "a secret comment", "and another", "c2VjcmV0", "two", "1.5"} {
		if bytes.Contains(data, []byte(secret)) {
			t.Errorf("%q is in the file:\n%s", secret, data)
		}
	}
	if !bytes.Contains(data, []byte("name: nats-app")) || !bytes.Contains(data, []byte("for everybody")) {
		t.Errorf("what everybody may read is not in the file:\n%s", data)
	}
	if again := mustEncrypt(t, f, recipient); bytes.Equal(again, data) {
		t.Error("the same data key, or the same nonces, twice")
	}
	got, err := Decrypt(data, []age.Identity{key})
	if err != nil {
		t.Fatal(err)
	}
	after, err := got.Plain()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	redacted, err := got.Redacted()
	if err != nil || bytes.Contains(redacted, []byte(sentinel)) || bytes.Contains(redacted, []byte("comment\n")) || !bytes.Contains(redacted, []byte("(14 characters)")) {
		t.Errorf("%v\n%s", err, redacted)
	}
}

// Whatever somebody without the key changes is found, and what cannot be read is told from it.
func TestRefused(t *testing.T) {
	key, recipient := newKey(t)
	_, stranger := newKey(t)
	good := string(mustEncrypt(t, manifests(t, plainFile), recipient))
	value := regexp.MustCompile(`password: (ENC\[[^\]]+\])`).FindStringSubmatch(good)[1]
	other := regexp.MustCompile(`number: (ENC\[[^\]]+\])`).FindStringSubmatch(good)[1]
	change := func(old, new string) string {
		t.Helper()
		out := strings.Replace(good, old, new, 1)
		if out == good {
			t.Fatalf("there is no %q", old)
		}
		return out
	}
	for name, tt := range map[string]struct {
		text  string
		wraps error
		says  string
	}{
		"a value of another place": {change(value, other), ErrTampered, "password"},
		"a value in the clear":     {change(value, "plain"), ErrTampered, "not encrypted"},
		"a value changed":          {change(value, strings.Replace(value, "data:", "data:AA", 1)), ErrTampered, "password"},
		"a value taken out":        {change("    password: "+value, "    x: \"\""), ErrTampered, "MAC"},
		"a name changed":           {change("name: nats-app", "name: nats-sys"), ErrTampered, "MAC"},
		"another time":             {strings.ReplaceAll(good, "2027-01-15", "2027-01-16"), ErrTampered, "MAC"},
		"a document cut off":       {good[:strings.Index(good, "\n---\n")+1], ErrTampered, "MAC"},
		"cut short":                {good[:len(good)/3], nil, ""},
		"no metadata":              {plainFile, ErrPlain, "sops"},
		"empty":                    {"", nil, "empty"},
		"not YAML":                 {"{", nil, ""},
		"a list":                   {"[a]", nil, "must be a mapping"},
		"a key twice":              {change("    number:", "    password: x\n    number:"), nil, `"password" is given twice`},
		"an alias":                 {"a: &b c\nd: *b\n", nil, "anchors"},
		"for a stranger":           {string(mustEncrypt(t, manifests(t, plainFile), stranger)), ErrWrongKey, stranger},
		"deep":                     {strings.Repeat("a: {", 100) + strings.Repeat("}", 100), nil, "levels"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Decrypt([]byte(tt.text), []age.Identity{key})
			if err == nil || tt.wraps != nil && !errors.Is(err, tt.wraps) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v; want %v, %q", err, tt.wraps, tt.says)
			}
			if err != nil && strings.Contains(err.Error(), sentinel) {
				t.Errorf("the error holds a value: %v", err)
			}
		})
	}
	if _, err := Decrypt([]byte(good), nil); !errors.Is(err, ErrNoKey) {
		t.Errorf("without a key: %v", err)
	}
}

func TestValues(t *testing.T) {
	values, err := manifests(t, strings.Replace(plainFile, "    list: [a, 'b: c', null]\n", "", 1)).Values()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(values.Names(), " "); got != "data/other messaging/nats-app" {
		t.Error(got)
	}
	if string(values["data/other"]["key"]) != "secret" || string(values["messaging/nats-app"]["password"]) != sentinel || string(values["messaging/nats-app"]["lines"]) != "one\ntwo\n" {
		t.Errorf("%q", values)
	}
	head := "apiVersion: v1\nkind: Secret\nmetadata: {namespace: a, name: b}\n"
	for name, tt := range map[string]struct{ text, want string }{
		"another kind": {"apiVersion: v1\nkind: ConfigMap\n", "only Secrets"},
		"no namespace": {"apiVersion: v1\nkind: Secret\nmetadata: {name: x}\n", "metadata.namespace"},
		"no base64":    {head + "data: {x: '" + sentinel + "!'}\n", "no base64"},
		"twice":        {head + "---\n" + head, "there twice"},
		"in both":      {head + "data: {x: eA==}\nstringData: {x: y}\n", "in data and in stringData"},
		"wrong type":   {head + "stringData: " + sentinel + "\n", "document 1"},
	} {
		if _, err := manifests(t, tt.text).Values(); err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), sentinel) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSet(t *testing.T) {
	f := NewManifests()
	for _, s := range [][3]string{{"nats-app", "password", "one"}, {"nats-app", "password", "two"}, {"nats-app", "user", "x"}, {"other", "k", "a: b\n"}} {
		if err := f.Set("messaging", s[0], s[1], s[2]); err != nil {
			t.Fatal(err)
		}
	}
	values, err := f.Values()
	if err != nil || len(values) != 2 || string(values["messaging/nats-app"]["password"]) != "two" || len(values["messaging/nats-app"]) != 2 || string(values["messaging/other"]["k"]) != "a: b\n" {
		t.Errorf("%q, %v", values, err)
	}
	data := manifests(t, strings.Replace(plainFile, "    list: [a, 'b: c', null]\n", "", 1))
	if err := data.Set("data", "other", "key", "new"); err != nil {
		t.Fatal(err)
	}
	key, recipient := newKey(t)
	again, err := Decrypt(mustEncrypt(t, data, recipient), []age.Identity{key})
	if err != nil {
		t.Fatal(err)
	}
	plain, _ := again.Plain()
	if strings.Contains(string(plain), "c2VjcmV0") || !strings.Contains(string(plain), "key: new") {
		t.Errorf("%s", plain)
	}
}

// The key is made once, for its owner alone, whatever the umask; and what others could have read or
// laid there is refused.
func TestKeys(t *testing.T) {
	root := t.TempDir()
	none := func(string) string { return "" }
	if _, _, err := Keys(root, none); !errors.Is(err, ErrNoKey) || !strings.Contains(err.Error(), "orrery secrets init") {
		t.Errorf("before: %v", err)
	}
	recipient, path, made, err := NewKey(root)
	if err != nil || !made || !strings.HasPrefix(recipient, "age1") {
		t.Fatal(recipient, made, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	again, _, made, err := NewKey(root)
	if err != nil || made || again != recipient {
		t.Errorf("a second time: %s, %v, %v", again, made, err)
	}
	keys, from, err := Keys(root, none)
	if err != nil || from != path || strings.Join(Recipients(keys), "") != recipient {
		t.Errorf("%v from %s, %v", Recipients(keys), from, err)
	}
	other, otherRecipient := newKey(t)
	env := func(name string) string { return map[string]string{EnvKey: other.String()}[name] }
	if keys, from, err = Keys(root, env); err != nil || from != EnvKey || Recipients(keys)[0] != otherRecipient {
		t.Errorf("%s: %v, %v", EnvKey, from, err)
	}
	text, _ := os.ReadFile(path)
	refused := func(want string) {
		t.Helper()
		_, _, err := Keys(root, none)
		_, _, made, err2 := NewKey(root)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "AGE-SECRET-KEY-1"+sentinel) || err2 == nil || made {
			t.Errorf("want %q: %v; %v, %v", want, err, made, err2)
		}
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	refused("chmod 600")
	put := func(text string) {
		t.Helper()
		if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	put("AGE-SECRET-KEY-1" + sentinel)
	refused("no secret key of age")
	put("")
	refused("no secret key of age")
	put("-----BEGIN AGE ENCRYPTED FILE-----\n")
	refused("passphrase")
	elsewhere := filepath.Join(t.TempDir(), "key")
	if err := errors.Join(os.WriteFile(elsewhere, text, 0o600), os.Remove(path), os.Symlink(elsewhere, path)); err != nil {
		t.Fatal(err)
	}
	refused("symbolic link")
	env = func(name string) string { return map[string]string{EnvKeyFile: elsewhere}[name] }
	if keys, _, err = Keys(root, env); err != nil || Recipients(keys)[0] != recipient {
		t.Errorf("%s: %v", EnvKeyFile, err)
	}
}

func TestConfig(t *testing.T) {
	root := t.TempDir()
	_, one := newKey(t)
	_, two := newKey(t)
	recipients := func() string {
		t.Helper()
		c, err := LoadConfig(root)
		if err != nil {
			t.Fatal(err)
		}
		r, ok, err := c.RuleFor(DataFile)
		if err != nil || !ok {
			return ""
		}
		return strings.Join(r.Recipients, " ")
	}
	set := func(all ...string) {
		t.Helper()
		c, err := LoadConfig(root)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetRecipients(all); err != nil {
			t.Fatal(err)
		}
	}
	set(one)
	if recipients() != one {
		t.Error(recipients())
	}
	set(one, two)
	if recipients() != one+" "+two {
		t.Error(recipients())
	}
	file := filepath.Join(root, ConfigFile)
	if text, _ := os.ReadFile(file); !strings.Contains(string(text), "# For whom") {
		t.Errorf("%s", text)
	}
	if err := os.WriteFile(file, []byte("stores: {yaml: {indent: 2}}\ncreation_rules:\n  - path_regex: other\n    pgp: ABC\n  - path_regex: secrets/\n    age: \""+one+", "+two+"\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if recipients() != one+" "+two {
		t.Error(recipients())
	}
	set(two)
	if text, _ := os.ReadFile(file); recipients() != two || !strings.Contains(string(text), "indent: 2") || !strings.Contains(string(text), "pgp: ABC") {
		t.Errorf("%s", text)
	}
	for text, want := range map[string]string{"creation_rules: [{path_regex: '('}]": "path_regex", "creation_rules: [{age: nobody}]": "nobody", "a: 1\na: 2": "twice"} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadConfig(root); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// What is in the clear, for others, or changed is found; a clean tree has no fault.
func TestCheck(t *testing.T) {
	root := t.TempDir()
	recipient, _, _, err := NewKey(root)
	if err != nil {
		t.Fatal(err)
	}
	c, _ := LoadConfig(root)
	if err := c.SetRecipients([]string{recipient}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, DataFile)
	f := manifests(t, plainFile)
	if err := f.Save(path, []string{recipient}); err != nil {
		t.Fatal(err)
	}
	keys, _, err := Keys(root, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	look := func(keys []age.Identity) Report {
		t.Helper()
		r, err := Check(root, keys, ErrNoKey)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := look(keys); len(r.Files) != 1 || len(r.Faults) != 0 || len(r.Unverified) != 0 {
		t.Errorf("clean: %+v", r)
	}
	if r := look(nil); len(r.Faults) != 0 || len(r.Unverified) != 1 || r.NoKey == "" {
		t.Errorf("clean, without a key: %+v", r)
	}
	good, _ := os.ReadFile(path)
	if err := Encrypted(good); err != nil {
		t.Error(err)
	}
	for _, text := range []string{plainFile, "", "{", regexp.MustCompile(`password: ENC\S+`).ReplaceAllString(string(good), "password: "+sentinel)} {
		if Encrypted([]byte(text)) == nil {
			t.Errorf("taken for encrypted:\n%s", text)
		}
	}
	for name, tt := range map[string]struct {
		file, text, want string
		keyless          bool // it is found without the key too
	}{
		"in the clear":      {DataFile, plainFile, "no key \"sops\"", true},
		"one value":         {DataFile, regexp.MustCompile(`password: ENC\S+`).ReplaceAllString(string(good), "password: "+sentinel), "password is in the clear", true},
		"a name":            {DataFile, strings.Replace(string(good), "nats-app", "nats-sys", 1), "MAC", false},
		"a file of its own": {Dir + "/more.yaml", "a: b\n", "no key \"sops\"", true},
		"without a rule":    {Dir + "/note.txt", "x", "no rule", true},
	} {
		file := filepath.Join(root, tt.file)
		if err := os.WriteFile(file, []byte(tt.text), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, k := range [][]age.Identity{keys, nil} {
			r := look(k)
			found := len(r.Faults) > 0 && strings.Contains(r.Faults[0].Problem, tt.want)
			if found != (k != nil || tt.keyless) {
				t.Errorf("%s, %d keys: %+v", name, len(k), r)
			}
			if strings.Contains(r.NoKey, sentinel) || len(r.Faults) > 0 && strings.Contains(r.Faults[0].Problem, sentinel) {
				t.Errorf("%s: a value is told: %+v", name, r)
			}
		}
		if tt.file != DataFile {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(path, good, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Save(path, []string{recipient, newRecipient(t)}); err != nil {
		t.Fatal(err)
	}
	if r := look(keys); len(r.Faults) != 1 || !strings.Contains(r.Faults[0].Problem, "orrery secrets rotate") {
		t.Errorf("another recipient: %+v", r)
	}
}

func newRecipient(t *testing.T) string { _, r := newKey(t); return r }

func FuzzDecrypt(f *testing.F) {
	key, recipient := newKey(f)
	f.Add([]byte(plainFile))
	f.Add(mustEncrypt(f, manifests(f, plainFile), recipient))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Decrypt(data, []age.Identity{key})
		if err != nil {
			return
		}
		if _, err := file.Plain(); err != nil {
			t.Fatal(err)
		}
		_, _ = file.Values()
	})
}

// The stock programs read what is written here, and the other way round. They are looked for on PATH:
// age is a package of Debian, and sops is compiled by tools/build.
func TestStockPrograms(t *testing.T) {
	sops, err := exec.LookPath("sops")
	if err != nil {
		out, built := exec.CommandContext(t.Context(), "../../tools/build", "--cached", "sops").Output()
		sops, err = strings.TrimSpace(string(out)), built
	}
	if err != nil {
		t.Skip("sops is neither on PATH nor compiled (tools/build sops): nothing was compared with it")
	}
	root := t.TempDir()
	recipient, keyFile, _, err := NewKey(root)
	if err != nil {
		t.Fatal(err)
	}
	c, _ := LoadConfig(root)
	if err := c.SetRecipients([]string{recipient}); err != nil {
		t.Fatal(err)
	}
	run := func(program string, args ...string) []byte {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), EnvKeyFile+"="+keyFile)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", program, args, err, stderr.String())
		}
		return out
	}
	keys, _, err := Keys(root, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, DataFile)
	plainOf := func(f *File) string {
		t.Helper()
		text, err := f.Plain()
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	valuesOf := func(text string) string {
		t.Helper()
		docs, err := parse([]byte(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		var all []any
		for _, d := range docs {
			var v any
			if err := d.Decode(&v); err != nil {
				t.Fatal(err)
			}
			all = append(all, v)
		}
		return fmt.Sprintf("%#v", all)
	}
	ours := manifests(t, plainFile)
	if err := ours.Save(path, []string{recipient}); err != nil {
		t.Fatal(err)
	}
	read := string(run(sops, "decrypt", DataFile))
	if valuesOf(read) != valuesOf(plainFile) || !strings.Contains(read, "# a secret comment") || !strings.Contains(read, "# and another") {
		t.Errorf("sops reads\n%s\nfor\n%s", read, plainOf(ours))
	}

	theirs := filepath.Join(root, Dir, "theirs.yaml")
	if err := os.WriteFile(theirs, []byte(plainFile), 0o600); err != nil {
		t.Fatal(err)
	}
	run(sops, "encrypt", "-i", Dir+"/theirs.yaml")
	f, err := Open(theirs, keys)
	if err != nil {
		t.Fatal(err)
	}
	if got := plainOf(f); valuesOf(got) != valuesOf(plainFile) || !strings.Contains(got, "# a secret comment") {
		t.Errorf("sops wrote, and we read\n%s", got)
	}
	run(sops, "set", Dir+"/theirs.yaml", `["stringData"]["password"]`, `"changed"`)
	if f, err = Open(theirs, keys); err != nil || !strings.Contains(plainOf(f), "password: changed") {
		t.Errorf("what sops changed: %v", err)
	}
	if r, err := Check(root, keys, nil); err != nil || len(r.Files) != 2 || len(r.Faults) != 0 {
		t.Errorf("%+v, %v", r, err)
	}

	stock, err := exec.LookPath("age-keygen")
	if err != nil {
		t.Log("age-keygen is not on PATH: its keys were not tried")
		return
	}
	if err := os.Remove(keyFile); err != nil {
		t.Fatal(err)
	}
	run(stock, "-o", keyFile)
	if keys, _, err = Keys(root, func(string) string { return "" }); err != nil || len(keys) != 1 {
		t.Fatal(err)
	}
	if shown := strings.TrimSpace(string(run(stock, "-y", keyFile))); shown != Recipients(keys)[0] {
		t.Errorf("age-keygen says %s, and we %v", shown, Recipients(keys))
	}
}
