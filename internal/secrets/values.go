package secrets

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"sort"

	"go.yaml.in/yaml/v3"
)

// Values are the entries of Secrets of Kubernetes, by "NAMESPACE/NAME".
type Values map[string]map[string][]byte

// Names are those of the Secrets, sorted.
func (v Values) Names() []string {
	var names []string
	for name := range v {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// manifestRegex is what of a Secret's manifest is encrypted: what an API server keeps secret too.
const manifestRegex = "^(data|stringData)$"

// NewManifests is a file for manifests of Secrets, without any.
func NewManifests() *File {
	return &File{selection: selection{encryptedRegex: regexp.MustCompile(manifestRegex)}}
}

// Values reads the manifests of Secrets that the file consists of. Errors name places, never
// values.
func (f *File) Values() (Values, error) {
	all := Values{}
	for i, doc := range f.docs {
		var m struct {
			APIVersion string         `yaml:"apiVersion"`
			Kind       string         `yaml:"kind"`
			Type       string         `yaml:"type"`
			Immutable  bool           `yaml:"immutable"`
			Metadata   map[string]any `yaml:"metadata"`
			Data       map[string]string
			StringData map[string]string `yaml:"stringData"`
		}
		if err := doc.Decode(&m); err != nil {
			return nil, fmt.Errorf("document %d: %w", i+1, clean(err))
		}
		if m.APIVersion != "v1" || m.Kind != "Secret" {
			return nil, fmt.Errorf("document %d is %s %s; only Secrets of v1 are taken", i+1, m.APIVersion, m.Kind)
		}
		namespace, _ := m.Metadata["namespace"].(string)
		name, _ := m.Metadata["name"].(string)
		if namespace == "" || name == "" {
			return nil, fmt.Errorf("document %d: metadata.namespace and metadata.name are needed", i+1)
		}
		id := namespace + "/" + name
		if all[id] != nil {
			return nil, fmt.Errorf("document %d: Secret %s is there twice", i+1, id)
		}
		all[id] = map[string][]byte{}
		for key, text := range m.Data {
			value, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				return nil, fmt.Errorf("Secret %s: data.%s is no base64; stringData takes text", id, key)
			}
			all[id][key] = value
		}
		for key, text := range m.StringData {
			if _, twice := all[id][key]; twice {
				return nil, fmt.Errorf("Secret %s: %s is in data and in stringData", id, key)
			}
			all[id][key] = []byte(text)
		}
	}
	return all, nil
}

// Set puts a value into a Secret's manifest, which is made where it is not there.
func (f *File) Set(namespace, name, key, value string) error {
	if _, err := f.Values(); err != nil {
		return err
	}
	var doc *yaml.Node
	for _, d := range f.docs {
		meta := child(d, "metadata")
		if meta != nil && text(child(meta, "namespace")) == namespace && text(child(meta, "name")) == name {
			doc = d
		}
	}
	if doc == nil {
		doc = &yaml.Node{}
		if err := doc.Encode(struct {
			APIVersion string            `yaml:"apiVersion"`
			Kind       string            `yaml:"kind"`
			Metadata   map[string]string `yaml:"metadata"`
			StringData map[string]string `yaml:"stringData"`
		}{"v1", "Secret", map[string]string{"namespace": namespace, "name": name}, map[string]string{}}); err != nil {
			return err
		}
		f.docs = append(f.docs, doc)
	}
	if data := child(doc, "data"); data != nil {
		drop(data, key)
	}
	texts := child(doc, "stringData")
	if texts == nil {
		texts = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		doc.Content = append(doc.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: "stringData"}, texts)
	}
	texts.Style = 0
	at := child(texts, key)
	if at == nil {
		at = &yaml.Node{}
		texts.Content = append(texts.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}, at)
	}
	at.SetString(value)
	return nil
}

func child(n *yaml.Node, key string) *yaml.Node {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func text(n *yaml.Node) string {
	if n == nil {
		return ""
	}
	return n.Value
}

func drop(n *yaml.Node, key string) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			n.Content = slices.Delete(n.Content, i, i+2)
			return
		}
	}
}
