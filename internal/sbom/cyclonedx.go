package sbom

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/mirror"
)

// Format is part of the name under which documents are kept. Raise it when the same
// image is to get another document.
const Format = "1"

// The types are the part of CycloneDX 1.6 that is used; the standard describes them:
// https://cyclonedx.org/docs/1.6/json/.
type bom struct {
	Schema       string       `json:"$schema"`
	BOMFormat    string       `json:"bomFormat"`
	SpecVersion  string       `json:"specVersion"`
	SerialNumber string       `json:"serialNumber"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version,omitempty"`
	Hashes     []digest   `json:"hashes,omitempty"`
	Licenses   []licence  `json:"licenses,omitempty"`
	PURL       string     `json:"purl,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type digest struct {
	Alg     string `json:"alg"`
	Content string `json:"content"`
}

type licence struct {
	Expression string `json:"expression,omitempty"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn,omitempty"`
}

// bill gathers what a document lists: components, and which of them needs which.
type bill struct {
	licences   map[string]string
	components map[string]component
	needs      map[string]map[string]bool
}

func newBill(root string, licences map[string]string) *bill {
	return &bill{licences: licences, components: map[string]component{}, needs: map[string]map[string]bool{root: {}}}
}

func (b *bill) need(from, to string) {
	if b.needs[from] == nil {
		b.needs[from] = map[string]bool{}
	}
	b.needs[from][to] = true
}

// program describes a program by what Go wrote into it, and adds the modules that it needs.
func (b *bill) program(ref, name string, p build.ProgramInfo) component {
	c := component{Type: "application", Ref: ref, Name: name, Version: p.Main.Version, Licenses: expression(b.licences[p.Main.Path])}
	if p.Main.Version != "" {
		c.PURL = purl(p.Main, strings.TrimPrefix(strings.TrimPrefix(p.Package, p.Main.Path), "/"))
	}
	c.Properties = []property{{"go:module", p.Main.Path}, {"go:package", p.Package}}
	if p.Main.Sum != "" {
		c.Properties = append(c.Properties, property{"go:sum", p.Main.Sum})
	}
	for _, s := range p.Settings {
		c.Properties = append(c.Properties, property{"go:build", s})
	}
	std := build.Module{Path: "std", Version: strings.TrimPrefix(p.Go, "go")}
	for _, m := range append([]build.Module{std}, p.Modules...) {
		lib := library(m, b.licences)
		b.components[lib.Ref] = lib
		b.need(ref, lib.Ref)
	}
	return c
}

// document is about root, whose digest is of.
func (b *bill) document(root component, of string) ([]byte, error) {
	d := bom{
		Schema: "http://cyclonedx.org/schema/bom-1.6.schema.json", BOMFormat: "CycloneDX", SpecVersion: "1.6",
		SerialNumber: serial(of), Version: 1, Metadata: metadata{root},
	}
	d.Components = slices.SortedFunc(maps.Values(b.components), func(x, y component) int {
		return cmp.Or(cmp.Compare(x.Type, y.Type), cmp.Compare(x.Ref, y.Ref))
	})
	for _, ref := range slices.Sorted(maps.Keys(b.needs)) {
		d.Dependencies = append(d.Dependencies, dependency{ref, slices.Sorted(maps.Keys(b.needs[ref]))})
	}
	return marshal(d)
}

// CycloneDX describes an image: its programs, their modules with hash and licence, the
// Go standard library, what archives in it are from, and every other file. licences maps module
// paths to SPDX expressions; a module that it does not have gets none.
func CycloneDX(in image.Inspection, licences map[string]string, archives ...Archive) ([]byte, error) {
	hexDigest := strings.TrimPrefix(in.Digest, "sha256:")
	if len(hexDigest) != 64 {
		return nil, fmt.Errorf("bill of materials of %s: %q is no SHA-256 digest", in.Name, in.Digest)
	}
	root := component{
		Type: "container", Ref: "image:" + in.Name, Name: in.Name, Version: in.Version,
		Hashes: []digest{{"SHA-256", hexDigest}},
		PURL: fmt.Sprintf("pkg:oci/%s@%s?arch=%s&repository_url=%s", in.Name, url.QueryEscape(in.Digest),
			strings.TrimPrefix(in.Platform, "linux/"), url.QueryEscape(mirror.Host+"/"+in.Name)),
	}
	b := newBill(root.Ref, licences)
	programs := map[string]string{} // path → reference
	for _, p := range in.Programs {
		ref := "program:" + p.Path
		programs[p.Path] = ref
		b.need(root.Ref, ref)
		b.components[ref] = b.program(ref, strings.TrimPrefix(p.Path, "/"), p)
	}
	for _, a := range archives {
		if err := a.check(); err != nil {
			return nil, fmt.Errorf("bill of materials of %s: %s: %w", in.Name, a.Name, err)
		}
		b.archive(root.Ref, a)
	}
	for _, l := range in.Layers {
		for _, f := range l.Files {
			ref, isProgram := programs[f.Path]
			switch {
			case f.Type != "file":
			case isProgram:
				c := b.components[ref]
				c.Hashes = []digest{{"SHA-256", f.SHA256}}
				b.components[ref] = c
			default:
				ref := "file:" + f.Path
				b.components[ref] = component{Type: "file", Ref: ref, Name: f.Path, Hashes: []digest{{"SHA-256", f.SHA256}}}
				b.need(root.Ref, ref)
			}
		}
	}
	return b.document(root, in.Digest)
}

func library(m build.Module, licences map[string]string) component {
	c := component{Type: "library", Name: m.Path, Version: m.Version, Licenses: expression(licences[m.Path]), PURL: purl(m, "")}
	c.Ref = c.PURL
	if m.Version == "" { // a folder of this repository stands for a module
		c.PURL, c.Ref = "", "folder:"+m.Path
	}
	if m.Sum != "" {
		c.Properties = append(c.Properties, property{"go:sum", m.Sum})
	}
	if m.Replaces != "" {
		c.Properties = append(c.Properties, property{"go:replaces", m.Replaces})
	}
	return c
}

func expression(spdx string) []licence {
	if spdx == "" || spdx == "NOASSERTION" { // which CycloneDX says by saying nothing
		return nil
	}
	return []licence{{spdx}}
}

// purl is the package URL of a module, https://github.com/package-url/purl-spec, with
// upper case kept: Go's paths are case-sensitive.
func purl(m build.Module, subpath string) string {
	s := "pkg:golang/" + m.Path + "@" + url.QueryEscape(m.Version)
	if subpath != "" {
		s += "#" + subpath
	}
	return s
}

// serial is a UUID of version 8 (RFC 9562: of one's own making) out of what it describes.
func serial(of string) string {
	sum := sha256.Sum256([]byte("cyclonedx " + Format + " " + of))
	u := sum[:16]
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	h := hex.EncodeToString(u)
	return fmt.Sprintf("urn:uuid:%s-%s-%s-%s-%s", h[:8], h[8:12], h[12:16], h[16:20], h[20:])
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(v)
	return b.Bytes(), err
}
