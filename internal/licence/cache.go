package licence

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"

	"github.com/orrery-dev/orrery/internal/atomicfile"
)

// Cache remembers the licences of modules by a key that names their content, since
// reading them takes a second or two. The zero value is not usable: see [OpenCache].
type Cache struct {
	file  string
	known map[string]string
	dirty bool
}

// OpenCache reads what is kept in file. What cannot be read is found out again.
func OpenCache(file string) *Cache {
	c := &Cache{file: file, known: map[string]string{}}
	if data, err := os.ReadFile(file); err == nil {
		if json.Unmarshal(data, &c.known) != nil || c.known == nil {
			c.known = map[string]string{}
		}
	}
	return c
}

// Of is the package's [Of], remembered under key when something was recognised.
func (c *Cache) Of(key, dir string) (string, error) {
	if known := c.known[key]; known != "" {
		return known, nil
	}
	found, err := Of(dir)
	if err == nil && found != Unknown {
		c.known[key], c.dirty = found, true
	}
	return found, err
}

// Save keeps what was found out, for all processes that share the cache: the last one
// wins, and the others find out again.
func (c *Cache) Save() error {
	if !c.dirty {
		return nil
	}
	all := OpenCache(c.file).known
	maps.Copy(all, c.known)
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(c.file), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(c.file, data, 0o644)
}
