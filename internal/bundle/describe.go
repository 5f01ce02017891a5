package bundle

import (
	"archive/tar"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/oci"
)

// Description is what a bundle holds; its form is a contract.
type Description struct {
	Digest     string    `json:"digest"`
	Format     int       `json:"format"`
	Platform   string    `json:"platform"`
	Overlay    string    `json:"overlay"`
	Components []string  `json:"components"`
	Size       int64     `json:"size"`     // bytes of the file
	Unpacked   int64     `json:"unpacked"` // bytes on the disk after an import
	Programs   []Program `json:"programs"`
	Images     []Image   `json:"images"`
	Catalog    int64     `json:"catalog"` // bytes, unpacked
	LockSHA256 string    `json:"lockSHA256"`
}

// Describe lists what the file holds.
func (f *File) Describe() Description {
	d := f.parsedIndex.describe()
	d.Size = f.size
	return d
}

func (s *parsedIndex) describe() Description {
	d := Description{
		Digest: "sha256:" + s.digest, Format: s.format, Platform: s.platform, Overlay: s.overlay, Components: append([]string{}, s.components...),
		Programs: append([]Program{}, s.programs...), Images: append([]Image{}, s.images...), Catalog: s.catalog.plain, LockSHA256: s.lock,
	}
	for i := range d.Programs {
		for _, p := range s.programDocuments {
			if p.program == d.Programs[i].Name {
				d.Programs[i].Attached = append(d.Programs[i].Attached, string(p.descriptor.MediaType))
			}
		}
	}
	for _, e := range s.entries {
		d.Unpacked += e.unpacked()
	}
	return d
}

// Lock reads the lock out of the catalogue.
func (f *File) Lock() (data []byte, err error) {
	err = decode(f.open(f.catalog), f.catalog, func(r io.Reader) error {
		t := tar.NewReader(r)
		for {
			h, err := t.Next()
			if errors.Is(err, io.EOF) {
				_, err = io.Copy(io.Discard, r)
				return err
			}
			if err != nil {
				return err
			}
			if h.Name == lock.FileName && h.Size <= oci.MaxManifest*4 {
				if data, err = io.ReadAll(t); err != nil {
					return err
				}
			}
		}
	})
	if err == nil && hexSum(data) != f.lock {
		err = errContent
	}
	if err != nil {
		return nil, f.locate(f.catalog, "its lock cannot be read: "+err.Error())
	}
	return data, nil
}

// Item is something that a bundle or a machine has, whole or in parts.
type Item struct {
	Kind  string // program, image, catalogue, attached
	Name  string
	Parts []Part
}

// Part is a piece of an item that is fetched or not.
type Part struct {
	SHA256 string // of a blob, or of a program, unpacked
	Size   int64  // bytes to fetch
}

// Need is what a machine lacks of an item.
type Need struct {
	Kind  string `json:"kind"`
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"` // to fetch
	Of    int64  `json:"of"`    // bytes that the item has
}

// Items are what the bundle has. What only serves to read the file is left out.
func (s *parsedIndex) Items() []Item {
	byOwner := map[string]*Item{}
	for _, e := range s.sorted() {
		kind, name, _ := strings.Cut(e.owner, " ")
		switch {
		case e.kind == kindCatalog:
			kind, name = "catalogue", "-"
		case strings.HasPrefix(e.owner, "what is attached to "):
			kind, name = "attached", strings.TrimPrefix(strings.TrimPrefix(e.owner, "what is attached to "), "image ")
		case kind != "program" && kind != "image":
			continue
		}
		item := byOwner[e.owner]
		if item == nil {
			item = &Item{Kind: kind, Name: name}
			byOwner[e.owner] = item
		}
		sum, _ := e.want()
		item.Parts = append(item.Parts, Part{sum, e.size})
	}
	var out []Item
	for _, item := range byOwner {
		out = append(out, *item)
	}
	slices.SortFunc(out, func(a, b Item) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
	return out
}

// Diff says what a machine that has a lacks of b. What items share is counted once.
func Diff(a, b []Item) (needs []Need, fetch, total int64) {
	have := map[string]bool{}
	for _, item := range a {
		for _, p := range item.Parts {
			have[p.SHA256] = true
		}
	}
	seen := map[string]bool{}
	for _, item := range b {
		n := Need{Kind: item.Kind, Name: item.Name}
		for _, p := range item.Parts {
			n.Of += p.Size
			if !seen[p.SHA256] {
				seen[p.SHA256] = true
				total += p.Size
				if !have[p.SHA256] {
					n.Bytes += p.Size
				}
			}
		}
		if fetch += n.Bytes; n.Bytes > 0 {
			needs = append(needs, n)
		}
	}
	return needs, fetch, total
}

// String is for people.
func (n Need) String() string {
	return fmt.Sprintf("%s %s: %d of %d bytes", n.Kind, n.Name, n.Bytes, n.Of)
}
