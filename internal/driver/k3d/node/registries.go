package node

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// registriesFile is where k3s reads about registries, and k3d writes.
const registriesFile = "/etc/rancher/k3s/registries.yaml"

// registries is the part of that file that nodes of ours understand. Credentials and authorities
// are not: they are refused, since leaving them out would look like a registry that is down.
type registries struct {
	Mirrors map[string]struct {
		Endpoint []string          `yaml:"endpoint"`
		Rewrite  map[string]string `yaml:"rewrite"`
	} `yaml:"mirrors"`
	Configs map[string]any `yaml:"configs"`
	Auths   map[string]any `yaml:"auths"` // the old name
}

// readRegistries returns containerd's files by the names of registries; none when there is no file.
func readRegistries(path string) (map[string][]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	hosts, err := parseRegistries(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return hosts, nil
}

func parseRegistries(b []byte) (map[string][]byte, error) {
	var r registries
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&r); err != nil && len(bytes.TrimSpace(b)) > 0 {
		return nil, err
	}
	for name := range r.Configs {
		return nil, fmt.Errorf("configs.%s: nodes of Orrery take mirrors without credentials or authorities of their own", name)
	}
	for name := range r.Auths {
		return nil, fmt.Errorf("auths.%s: nodes of Orrery take mirrors without credentials of their own", name)
	}
	hosts := map[string][]byte{}
	for name, m := range r.Mirrors {
		if len(m.Rewrite) > 0 {
			return nil, fmt.Errorf("mirrors.%s.rewrite: nodes of Orrery rename nothing", name)
		}
		file := name
		var out strings.Builder
		if name == "*" {
			file = "_default"
		} else {
			if strings.ContainsAny(name, "/\\") || strings.Trim(name, ".") == "" {
				return nil, fmt.Errorf("mirrors.%s: want HOST or HOST:PORT", name)
			}
			fmt.Fprintf(&out, "server = %s\n", strconv.Quote("https://"+name))
		}
		for i, e := range m.Endpoint {
			u, err := url.Parse(e)
			if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
				return nil, fmt.Errorf("mirrors.%s.endpoint[%d] %q: want http://HOST:PORT or https://HOST:PORT", name, i, e)
			}
			fmt.Fprintf(&out, "\n[host.%s]\n  capabilities = [\"pull\", \"resolve\"]\n", strconv.Quote(u.Scheme+"://"+u.Host))
		}
		hosts[file] = []byte(out.String())
	}
	return hosts, nil
}
