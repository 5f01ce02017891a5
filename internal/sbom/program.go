package sbom

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/lock"
)

// ProgramBuildType is [BuildType] for a program of the node distribution, which is in no
// image: its subject is the file.
const ProgramBuildType = "https://orrery.dev/build-type/program/v1"

// Program is a program of the node distribution.
type Program struct {
	Name, Version string
	Platform      string // "linux/amd64"
	SHA256        string // of the file, in hexadecimal
	Info          build.ProgramInfo
	// Entry says what it was made from, the C tools too.
	Entry lock.Binary
	// Toolchain is Go's, with the "h1:" hash over its files. A bill of materials does
	// without.
	ToolchainVersion, ToolchainSum string
}

func (p Program) check() error {
	if len(p.SHA256) != 64 {
		return fmt.Errorf("%q is no SHA-256 digest", p.SHA256)
	}
	return nil
}

// Package is one of the operating system's, by Debian's name and version.
type Package struct {
	Name, Version, Arch string
	SHA256              string // of the package, in hexadecimal; empty when nobody pins it
}

// URI is the package URL, https://github.com/package-url/purl-spec.
func (p Package) URI() string {
	return "pkg:deb/debian/" + p.Name + "@" + url.QueryEscape(p.Version) + "?arch=" + p.Arch
}

// LicenceKey is what the list of licences calls the package: "deb:NAME".
func (p Package) LicenceKey() string { return "deb:" + p.Name }

// Packages reads those of tools, as the lock has them, that are packages: "NAME VERSION
// ARCH". linked are those with libraries, which a static program has in it.
func Packages(tools []string) (linked, others []Package) {
	for _, t := range tools {
		f := strings.Fields(t)
		if len(f) != 3 || strings.Contains(t, "(") {
			continue
		}
		p := Package{Name: f[0], Version: f[1], Arch: f[2]}
		if strings.HasPrefix(p.Name, "lib") && strings.HasSuffix(p.Name, "-dev") {
			linked = append(linked, p)
		} else {
			others = append(others, p)
		}
	}
	return linked, others
}

// ProgramCycloneDX is [CycloneDX] for a program that is in no image. What is linked into it
// from C libraries is listed by package.
func ProgramCycloneDX(p Program, licences map[string]string) ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("bill of materials of %s: %w", p.Name, err)
	}
	ref := "program:" + p.Name
	b := newBill(ref, licences)
	root := b.program(ref, p.Name, p.Info)
	root.Version = p.Version
	root.Hashes = []digest{{"SHA-256", p.SHA256}}
	root.Properties = append(root.Properties, property{"orrery:platform", p.Platform})
	linked, _ := Packages(p.Entry.CTools)
	for _, lib := range linked {
		c := component{
			Type: "library", Ref: lib.URI(), Name: lib.Name, Version: lib.Version, PURL: lib.URI(),
			Licenses: expression(licences[lib.LicenceKey()]),
		}
		b.components[c.Ref] = c
		b.need(ref, c.Ref)
	}
	return b.document(root, "sha256:"+p.SHA256)
}

// ProgramProvenance is [Provenance] for a program that is in no image.
func ProgramProvenance(p Program) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, fmt.Errorf("provenance of %s: %w", p.Name, err) }
	if err := p.check(); err != nil {
		return fail(err)
	}
	d, err := resolve(p.ToolchainVersion, p.ToolchainSum, p.Platform)
	if err != nil {
		return fail(err)
	}
	parameter, err := d.binary(p.Name, p.Entry, p.Info)
	if err != nil {
		return fail(err)
	}
	d.cTools = p.Entry.CTools
	linked, others := Packages(p.Entry.CTools)
	for _, pkg := range slices.Concat(linked, others) { // whose bytes nobody here vouches for
		d.resolved[pkg.URI()] = resource{Name: pkg.Name, URI: pkg.URI()}
	}
	return d.statement(
		resource{Name: p.Name, Digest: map[string]string{"sha256": p.SHA256}}, ProgramBuildType,
		externalParameters{Program: p.Name, Version: p.Version, Platform: p.Platform, Binaries: []binaryParameter{parameter}})
}
