package keeper

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"
)

// Desired is what a Vault is to have, read from all files *.yaml of a folder. What was in a file
// and is no more stays in Vault: taking away data is for a person.
type Desired struct {
	// Audit, Mounts and Auth are audit devices, secrets engines and ways to log in, by path.
	Audit  map[string]Engine `yaml:"audit"`
	Mounts map[string]Engine `yaml:"mounts"`
	Auth   map[string]Engine `yaml:"auth"`
	// Policies are policies in Vault's language, by name.
	Policies map[string]string `yaml:"policies"`
	// Write is written in order, after all else.
	Write []Write `yaml:"write"`
}

// Engine is an audit device, a secrets engine or a way to log in.
type Engine struct {
	Type        string            `yaml:"type" json:"type"`
	Description string            `yaml:"description" json:"description,omitempty"`
	Options     map[string]string `yaml:"options" json:"options,omitempty"`
	// Config has the defaults of leases, as sys/mounts takes it.
	Config map[string]any `yaml:"config" json:"config,omitempty"`
}

// Write is a request that may be repeated.
type Write struct {
	Path string         `yaml:"path"`
	Data map[string]any `yaml:"data"`
	// Unless names a path: what can be read there need not be written.
	Unless string `yaml:"unless"`
}

// load reads dir, and returns its bytes too, to see whether it changed.
func load(dir string) (Desired, []byte, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return Desired{}, nil, err
	}
	if len(files) == 0 {
		return Desired{}, nil, fmt.Errorf("no file *.yaml in %s: mount the ConfigMap that says what Vault has", dir)
	}
	all := Desired{
		Audit: map[string]Engine{}, Mounts: map[string]Engine{}, Auth: map[string]Engine{}, Policies: map[string]string{},
	}
	var read []byte
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return Desired{}, nil, err
		}
		read = append(append(read, file...), text...)
		var d Desired
		dec := yaml.NewDecoder(bytes.NewReader(text))
		dec.KnownFields(true)
		if err := dec.Decode(&d); err != nil && !errors.Is(err, io.EOF) {
			return Desired{}, nil, fmt.Errorf("%s: %w", file, err)
		}
		if err := all.add(d); err != nil {
			return Desired{}, nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return all, read, nil
}

func (d *Desired) add(o Desired) error {
	err := errors.Join(merge("audit", d.Audit, o.Audit), merge("mounts", d.Mounts, o.Mounts),
		merge("auth", d.Auth, o.Auth), merge("policies", d.Policies, o.Policies))
	for i, w := range o.Write {
		if w.Path == "" {
			err = errors.Join(err, fmt.Errorf("write[%d].path is not set", i))
		}
	}
	for name, e := range d.Mounts {
		if e.Type == "" {
			err = errors.Join(err, fmt.Errorf("mounts.%s.type is not set", name))
		}
	}
	d.Write = append(d.Write, o.Write...)
	return err
}

func merge[V any](field string, into, from map[string]V) error {
	for name, v := range from {
		if _, ok := into[name]; ok {
			return fmt.Errorf("%s.%s is in another file already", field, name)
		}
		into[name] = v
	}
	return nil
}
