package kubeconfig

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/orrery-dev/orrery/internal/atomicfile"
)

// sizeLimit of a file: one entry has a few KiB.
const sizeLimit = 64 << 20

// Default is the file that kubectl would write to: the first that $KUBECONFIG names, or
// ~/.kube/config (https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/).
func Default() (string, error) {
	for _, file := range filepath.SplitList(os.Getenv("KUBECONFIG")) {
		if file != "" { // kubectl skips empty ones too
			return filepath.Abs(file)
		}
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find your kubeconfig: %w; name one with KUBECONFIG", err)
	}
	return filepath.Join(home, ".kube", "config"), nil
}

// Current is the current context of a file; empty when there is none, or no file.
func Current(path string) (string, error) {
	f, err := open(path)
	if err != nil {
		return "", err
	}
	return f.value("current-context"), nil
}

// Certificate is that of a user of a file; nil when they have none, or there is no such user or file.
func Certificate(path, user string) (*x509.Certificate, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	entry, _ := f.entry("users", user)
	data, err := base64.StdEncoding.DecodeString(scalar(field(field(entry, "user"), "client-certificate-data")))
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: the certificate of user %s: %w", path, user, err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, nil //nolint:nilnil // there is none
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: the certificate of user %s: %w", path, user, err)
	}
	return cert, nil
}

// Merge copies the current context of kubeconfig own into the file path, under one name for
// context, cluster and user, and makes it the current one. A file that is not there is made.
func Merge(own []byte, path, name string) error {
	root, err := parse(own)
	if err != nil {
		return fmt.Errorf("the environment's kubeconfig: %w", err)
	}
	from := &file{root: root}
	context, ok := from.entry("contexts", from.value("current-context"))
	if !ok {
		return errors.New("the environment's kubeconfig has no current context: 'orrery up' writes it anew")
	}
	into, err := open(path)
	if err != nil {
		return err
	}
	for list, kind := range map[string]string{"clusters": "cluster", "users": "user"} {
		found, ok := from.entry(list, scalar(field(field(context, "context"), kind)))
		if !ok {
			return fmt.Errorf("the environment's kubeconfig: its context names a %s that is not there", kind)
		}
		if err := into.put(list, name, kind, field(found, kind)); err != nil {
			return err
		}
	}
	if err := into.put("contexts", name, "context", mapping("cluster", text(name), "user", text(name))); err != nil {
		return err
	}
	into.set("current-context", text(name))
	for key, value := range map[string]string{"apiVersion": "v1", "kind": "Config"} {
		if into.value(key) == "" {
			into.set(key, text(value))
		}
	}
	return into.write()
}

// Remove takes the context out of path, with cluster and user of its name; previous is the
// current context again, where it was ours and previous is still there. A file that held
// nothing else is removed, one that is not there is fine.
func Remove(path, name, previous string) error {
	f, err := open(path)
	if err != nil {
		return fmt.Errorf("take context %s out of %s: %w", name, path, err)
	}
	if !f.exists {
		return nil
	}
	left, changed := 0, false
	for _, list := range []string{"clusters", "users", "contexts"} {
		n, removed := f.drop(list, name)
		left, changed = left+n, changed || removed
	}
	if f.value("current-context") == name {
		if _, there := f.entry("contexts", previous); !there {
			previous = ""
		}
		f.set("current-context", text(previous))
		changed = true
	}
	switch {
	case !changed:
		return nil
	case left == 0 && f.onlyOurs():
		err = os.Remove(f.path)
	default:
		err = f.write()
	}
	if err != nil {
		return fmt.Errorf("take context %s out of %s: %w", name, path, err)
	}
	return nil
}

// file is a kubeconfig as its nodes.
type file struct {
	path   string // that links lead to
	exists bool
	info   fs.FileInfo
	root   *yaml.Node // a mapping
}

// open reads a file; one that is not there is empty.
func open(path string) (*file, error) {
	at, err := target(path)
	if err != nil {
		return nil, err
	}
	f := &file{path: at, root: &yaml.Node{Kind: yaml.MappingNode}}
	info, err := os.Stat(at)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > sizeLimit { // /dev/null has no place for us, and others never end
		return nil, fmt.Errorf("kubeconfig %s: not a file of at most %d MiB: name one with KUBECONFIG", path, sizeLimit>>20)
	}
	data, err := os.ReadFile(at)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	f.exists, f.info = true, info
	if f.root, err = parse(data); err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	return f, nil
}

// parse reads a kubeconfig; one without content has nothing.
func parse(data []byte) (*yaml.Node, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return &yaml.Node{Kind: yaml.MappingNode}, nil
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("it is no mapping of clusters, users and contexts")
	}
	return doc.Content[0], nil
}

// target is where links lead, also to a file that is not there yet.
func target(path string) (string, error) {
	for range 40 { // as many as the kernel follows
		to, err := os.Readlink(path)
		if err != nil {
			return path, nil //nolint:nilerr // no link
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = to
	}
	return "", fmt.Errorf("kubeconfig %s: too many links", path)
}

// write replaces the file at once. Owner and mode stay; a new file is its folder's owner's,
// and nobody else's to read.
func (f *file) write() error {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(f.root), enc.Close()); err != nil {
		return fmt.Errorf("write kubeconfig %s: %w", f.path, err)
	}
	if f.exists {
		return owned(f.path, f.info, func() error { return atomicfile.Write(f.path, b.Bytes(), f.info.Mode().Perm()) })
	}
	dir := filepath.Dir(f.path)
	if err := makeFolder(dir); err != nil {
		return err
	}
	above, err := os.Stat(dir)
	if err != nil {
		return err
	}
	return owned(f.path, above, func() error { return atomicfile.Write(f.path, b.Bytes(), 0o600) })
}

// makeFolder makes a folder, and those above it, as their owner's.
func makeFolder(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := makeFolder(filepath.Dir(dir)); err != nil {
		return err
	}
	above, err := os.Stat(filepath.Dir(dir))
	if err != nil {
		return err
	}
	return owned(dir, above, func() error { return os.Mkdir(dir, 0o700) })
}

// onlyOurs: beside the lists there is nothing that a person may have written.
func (f *file) onlyOurs() bool {
	for i := 0; i+1 < len(f.root.Content); i += 2 {
		if !slices.Contains([]string{"apiVersion", "kind", "clusters", "users", "contexts", "current-context"}, f.root.Content[i].Value) {
			return false
		}
	}
	return true
}

func (f *file) value(key string) string { return scalar(field(f.root, key)) }

func (f *file) set(key string, v *yaml.Node) {
	for i := 0; i+1 < len(f.root.Content); i += 2 {
		if f.root.Content[i].Value == key {
			f.root.Content[i+1] = v
			return
		}
	}
	f.root.Content = append(f.root.Content, text(key), v)
}

// entry of a list by its name.
func (f *file) entry(list, name string) (*yaml.Node, bool) {
	l := field(f.root, list)
	if l == nil || name == "" {
		return nil, false
	}
	i := slices.IndexFunc(l.Content, func(n *yaml.Node) bool { return scalar(field(n, "name")) == name })
	if i < 0 {
		return nil, false
	}
	return l.Content[i], true
}

// put replaces the entry of that name, or adds it.
func (f *file) put(list, name, kind string, v *yaml.Node) error {
	l := field(f.root, list)
	switch {
	case l == nil || l.Tag == "!!null":
		l = &yaml.Node{Kind: yaml.SequenceNode}
		f.set(list, l)
	case l.Kind != yaml.SequenceNode:
		return fmt.Errorf("kubeconfig %s: %s is no list", f.path, list)
	}
	f.drop(list, name)
	l.Content = append(l.Content, mapping("name", text(name), kind, v))
	return nil
}

// drop removes the entry of that name, and says how many are left.
func (f *file) drop(list, name string) (left int, removed bool) {
	l := field(f.root, list)
	if l == nil {
		return 0, false
	}
	before := len(l.Content)
	l.Content = slices.DeleteFunc(l.Content, func(n *yaml.Node) bool { return scalar(field(n, "name")) == name })
	return len(l.Content), len(l.Content) < before
}

func field(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func scalar(n *yaml.Node) string {
	if n == nil || n.Kind != yaml.ScalarNode {
		return ""
	}
	return n.Value
}

func text(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s} }

func mapping(key string, v *yaml.Node, key2 string, v2 *yaml.Node) *yaml.Node {
	return &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{text(key), v, text(key2), v2}}
}
