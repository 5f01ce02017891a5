package sbom

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/mirror"
)

// BuildType says how to read the parameters of a provenance; docs/reference/build-type.md
// describes it.
const BuildType = "https://orrery.dev/build-type/image/v1"

// LocalBuilder is the builder of everything that is made on a person's machine. Nothing
// keeps that person from changing what the provenance says, so it stands for SLSA build
// level 1 and never more.
const LocalBuilder = "https://orrery.dev/builder/local"

// Types of documents, as in-toto names them.
const (
	StatementType = "https://in-toto.io/Statement/v1"
	PredicateType = "https://slsa.dev/provenance/v1"
)

// The types are the part of the in-toto Statement v1 and of SLSA provenance v1 that is used:
// https://slsa.dev/spec/v1.2/build-provenance.
type statement struct {
	Type          string     `json:"_type"`
	Subject       []resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     predicate  `json:"predicate"`
}

type resource struct {
	Name        string            `json:"name,omitempty"`
	URI         string            `json:"uri,omitempty"`
	Digest      map[string]string `json:"digest,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type predicate struct {
	BuildDefinition buildDefinition `json:"buildDefinition"`
	RunDetails      runDetails      `json:"runDetails"`
}

type buildDefinition struct {
	BuildType            string             `json:"buildType"`
	ExternalParameters   externalParameters `json:"externalParameters"`
	InternalParameters   internalParameters `json:"internalParameters"`
	ResolvedDependencies []resource         `json:"resolvedDependencies"`
}

// externalParameters are what whoever wants the image, or the program, decides: the
// catalogue's entry.
type externalParameters struct {
	Image       string            `json:"image,omitempty"`
	Program     string            `json:"program,omitempty"`
	Version     string            `json:"version"`
	Platform    string            `json:"platform"`
	User        string            `json:"user,omitempty"`
	Entrypoint  []string          `json:"entrypoint,omitempty"`
	Directories []string          `json:"directories,omitempty"`
	Binaries    []binaryParameter `json:"binaries"`
}

type binaryParameter struct {
	Name    string   `json:"name"`
	Module  string   `json:"module"`
	Package string   `json:"package"`
	Flags   []string `json:"flags"`
	Links   []string `json:"links,omitempty"`
	// Pins hashes the go.mod and go.sum that fix all modules.
	Pins string `json:"pins,omitempty"`
}

// internalParameters are what the builder decides.
type internalParameters struct {
	Go        string `json:"go"`
	SLSALevel int    `json:"slsaBuildLevel"`
	// CTools are the C compiler, the linker and packages, where there is C in it.
	CTools []string `json:"cTools,omitempty"`
}

type runDetails struct {
	Builder builder `json:"builder"`
}

type builder struct {
	ID string `json:"id"`
}

// Source is what [Provenance] is made of.
type Source struct {
	Image    image.Inspection
	Entry    lock.Image             // what was asked for
	Binaries map[string]lock.Binary // by name: what each was made from
	// Toolchain is Go's, with the "h1:" hash over its files.
	ToolchainVersion, ToolchainSum string
}

// Provenance says how an image was made: SLSA provenance v1 in an in-toto statement about
// its digest, not signed. It has no times, so that the same image has the same statement.
func Provenance(s Source) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("provenance of %s: %w", s.Image.Name, err)
	}
	algorithm, hexDigest, _ := strings.Cut(s.Image.Digest, ":")
	if algorithm != "sha256" || len(hexDigest) != 64 {
		return fail(fmt.Errorf("%q is no SHA-256 digest", s.Image.Digest))
	}
	external := externalParameters{
		Image: s.Image.Name, Version: s.Image.Version, Platform: s.Image.Platform,
		User: s.Entry.User, Entrypoint: s.Entry.Entrypoint, Directories: s.Entry.Directories,
	}
	d, err := resolve(s.ToolchainVersion, s.ToolchainSum, s.Image.Platform)
	if err != nil {
		return fail(err)
	}
	programs := s.Image.Programs
	for _, name := range s.Entry.Binaries {
		b, ok := s.Binaries[name]
		archive := b.Kind == lock.KindFolder || b.Kind == lock.KindDebian
		var parameter binaryParameter
		switch {
		case ok && archive:
			parameter, err = d.archive(Archive{Name: name, Platform: s.Image.Platform, Entry: b})
		case ok && len(programs) > 0:
			parameter, err = d.binary(name, b, programs[0])
			programs = programs[1:]
		default:
			err = fmt.Errorf("nothing is known of binary %s", name)
		}
		if err != nil {
			return fail(err)
		}
		external.Binaries = append(external.Binaries, parameter)
	}
	return d.statement(resource{Name: mirror.Host + "/" + s.Image.Name, Digest: map[string]string{"sha256": hexDigest}}, BuildType, external)
}

// dependencies are what a build used, by URI.
type dependencies struct {
	toolchain string
	cTools    []string
	resolved  map[string]resource
}

// resolve begins with the Go toolchain, whose hash is sum.
func resolve(version, sum, platform string) (dependencies, error) {
	d := dependencies{toolchain: version, resolved: map[string]resource{}}
	hash, err := dirHash(sum)
	if err != nil {
		return d, fmt.Errorf("toolchain of Go: %w", err)
	}
	os, arch, _ := strings.Cut(platform, "/")
	uri := fmt.Sprintf("pkg:generic/go@%s?os=%s&arch=%s", strings.TrimPrefix(version, "go"), os, arch)
	d.resolved[uri] = resource{Name: version, URI: uri, Digest: hash}
	return d, nil
}

// binary adds what one binary was made from: what was asked for is b, what Go wrote into it
// is p.
func (d dependencies) binary(name string, b lock.Binary, p build.ProgramInfo) (binaryParameter, error) {
	parameter := binaryParameter{Name: name, Module: b.Module, Package: b.Package, Flags: b.Flags, Links: b.Links, Pins: b.Pins}
	if b.Go != p.Go {
		return parameter, fmt.Errorf("binary %s says that %s made it, and not %s", name, p.Go, b.Go)
	}
	if b.Tree != "" {
		uri := "tree:" + name
		d.resolved[uri] = resource{
			Name: "source of " + name + " in this repository", URI: uri,
			Digest: map[string]string{"orreryTree": strings.TrimPrefix(b.Tree, "sha256:")},
		}
	}
	for _, m := range append([]build.Module{p.Main}, p.Modules...) {
		if m.Version == "" { // a folder of this repository, which is part of the tree
			continue
		}
		digest, err := dirHash(m.Sum)
		if err != nil {
			return parameter, fmt.Errorf("module %s@%s in %s: %w", m.Path, m.Version, name, err)
		}
		r := resource{Name: m.Path, URI: purl(m, ""), Digest: digest}
		if m.Replaces != "" {
			r.Annotations = map[string]string{"replaces": m.Replaces}
		}
		d.resolved[r.URI] = r
	}
	return parameter, nil
}

func (d dependencies) statement(subject resource, buildType string, external externalParameters) ([]byte, error) {
	return marshal(statement{
		Type:          StatementType,
		Subject:       []resource{subject},
		PredicateType: PredicateType,
		Predicate: predicate{
			BuildDefinition: buildDefinition{
				BuildType: buildType, ExternalParameters: external,
				InternalParameters: internalParameters{Go: d.toolchain, SLSALevel: 1, CTools: d.cTools},
				ResolvedDependencies: slices.SortedFunc(maps.Values(d.resolved), func(a, b resource) int {
					return cmp.Compare(a.URI, b.URI)
				}),
			},
			RunDetails: runDetails{Builder: builder{ID: LocalBuilder}},
		},
	})
}

// dirHash is a hash of go.sum as an in-toto digest set has it: hexadecimal, not base64.
func dirHash(sum string) (map[string]string, error) {
	text, ok := strings.CutPrefix(sum, "h1:")
	raw, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(raw) != 32 {
		return nil, fmt.Errorf("%q is no h1: hash", sum)
	}
	return map[string]string{"dirHash1": hex.EncodeToString(raw)}, nil
}
