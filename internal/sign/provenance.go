package sign

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/sbom"
)

// provenance is the part of SLSA provenance v1 that is compared with what is expected;
// docs/reference/build-type.md describes the parameters.
type provenance struct {
	BuildDefinition struct {
		BuildType          string `json:"buildType"`
		ExternalParameters struct {
			Image       string            `json:"image"`
			Program     string            `json:"program"`
			Version     string            `json:"version"`
			Platform    string            `json:"platform"`
			User        string            `json:"user"`
			Entrypoint  []string          `json:"entrypoint"`
			Directories []string          `json:"directories"`
			Binaries    []binaryParameter `json:"binaries"`
		} `json:"externalParameters"`
		InternalParameters struct {
			Go     string   `json:"go"`
			CTools []string `json:"cTools"`
		} `json:"internalParameters"`
		ResolvedDependencies []struct {
			URI    string            `json:"uri"`
			Digest map[string]string `json:"digest"`
		} `json:"resolvedDependencies"`
	} `json:"buildDefinition"`
	RunDetails struct {
		Builder struct {
			ID string `json:"id"`
		} `json:"builder"`
	} `json:"runDetails"`
}

type binaryParameter struct {
	Name    string   `json:"name"`
	Module  string   `json:"module"`
	Package string   `json:"package"`
	Flags   []string `json:"flags"`
	Links   []string `json:"links"`
	Pins    string   `json:"pins"`
}

// provenance compares a predicate with what is expected of the image, or program, called
// name, and returns the builder. Without a lock only builder, build type and name are
// compared.
func (v *verification) provenance(predicate []byte) (builder string, err error) {
	var pr provenance
	if err := json.Unmarshal(predicate, &pr); err != nil {
		return "", mistake(ErrProvenance, "it cannot be read: %w", err)
	}
	builder = pr.RunDetails.Builder.ID
	external := pr.BuildDefinition.ExternalParameters
	buildType, of := sbom.BuildType, external.Image
	if v.program {
		buildType, of = sbom.ProgramBuildType, external.Program
	}
	if v.archive {
		buildType = sbom.ArchiveBuildType
	}
	switch {
	case !v.AnyBuilder && !slices.Contains(v.builders(), builder):
		return builder, mistake(ErrBuilder, "built by %q, which is none of %q", builder, v.builders())
	case pr.BuildDefinition.BuildType != buildType:
		return builder, mistake(ErrProvenance, "the build type is %q and not %q", pr.BuildDefinition.BuildType, buildType)
	case of != v.name:
		return builder, mistake(ErrProvenance, "it is of the %s %q", v.what(), of)
	}
	v.cTools = pr.BuildDefinition.InternalParameters.CTools
	if v.Locked == nil {
		return builder, nil
	}
	var d []string
	if v.program {
		if _, ok := v.Locked.Binaries[v.name]; ok { // else the check of the lock says so
			d = pr.differences([]string{v.name}, v.Locked.Binaries)
		}
	} else if entry, ok := v.Locked.Images[v.name]; ok {
		d = pr.imageDifferences(entry, v.Locked.Binaries)
	}
	if len(d) > 0 {
		return builder, mistake(ErrProvenance, "it was made from something else than the lock says: %s", strings.Join(d, "; "))
	}
	return builder, nil
}

// comparison lists what is not as locked.
type comparison []string

func (c *comparison) equal(field string, have, want any) {
	if h, w := fmt.Sprint(have), fmt.Sprint(want); h != w {
		*c = append(*c, fmt.Sprintf("%s is %s, locked is %s", field, h, w))
	}
}

func (pr provenance) imageDifferences(entry lock.Image, binaries map[string]lock.Binary) []string {
	var found comparison
	external := pr.BuildDefinition.ExternalParameters
	found.equal("version", external.Version, entry.Version)
	found.equal("user", external.User, entry.User)
	found.equal("entrypoint", external.Entrypoint, entry.Entrypoint)
	found.equal("directories", external.Directories, entry.Directories)
	if len(found) > 0 {
		return found
	}
	return pr.differences(entry.Binaries, binaries)
}

// differences compares the binaries, and what they were made from.
func (pr provenance) differences(want []string, binaries map[string]lock.Binary) []string {
	var found comparison
	external := pr.BuildDefinition.ExternalParameters
	var names []string
	for _, b := range external.Binaries {
		names = append(names, b.Name)
	}
	found.equal("binaries", names, want)
	if len(found) > 0 {
		return found
	}
	resolved := map[string]map[string]string{}
	for _, d := range pr.BuildDefinition.ResolvedDependencies {
		resolved[d.URI] = d.Digest
	}
	for _, b := range external.Binaries {
		want := binaries[b.Name]
		at := func(field string) string { return b.Name + "." + field }
		found.equal(at("module"), b.Module, want.Module)
		found.equal(at("package"), b.Package, want.Package)
		found.equal(at("flags"), b.Flags, want.Flags)
		found.equal(at("links"), b.Links, want.Links)
		found.equal(at("pins"), b.Pins, want.Pins)
		if want.Go != "" { // an archive beside programs was made without it
			found.equal(at("go"), pr.BuildDefinition.InternalParameters.Go, want.Go)
		}
		if want.Tree != "" {
			found.equal(at("tree"), "sha256:"+resolved["tree:"+b.Name]["orreryTree"], want.Tree)
		}
		for _, p := range sbom.ArchivePackages(want, external.Platform) {
			found.equal(at("packages."+p.Name), resolved[p.URI()]["sha256"], p.SHA256)
		}
		if path, version, ok := strings.Cut(want.Module, "@"); ok {
			found.equal(at("sum"), resolved["pkg:golang/"+path+"@"+url.QueryEscape(version)]["dirHash1"], hexSum(want.Sum))
		}
	}
	return found
}

// hexSum is an "h1:" hash in hexadecimal.
func hexSum(sum string) string {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(sum, "h1:"))
	if err != nil {
		return sum
	}
	return hex.EncodeToString(raw)
}

// bom is the part of a CycloneDX document that says what it is about.
type bom struct {
	BOMFormat string `json:"bomFormat"`
	Metadata  struct {
		Component struct {
			Name   string `json:"name"`
			Hashes []struct {
				Alg     string `json:"alg"`
				Content string `json:"content"`
			} `json:"hashes"`
		} `json:"component"`
	} `json:"metadata"`
}

// sbom compares a bill of materials with what it is about, and with the lock.
func (v *verification) sbom(predicate []byte) error {
	var b bom
	if err := json.Unmarshal(predicate, &b); err != nil {
		return mistake(ErrSBOM, "it cannot be read: %w", err)
	}
	root := b.Metadata.Component
	if b.BOMFormat != "CycloneDX" || root.Name != v.name {
		return mistake(ErrSBOM, "it is a %q document about %q", b.BOMFormat, root.Name)
	}
	for _, h := range root.Hashes {
		if h.Alg == "SHA-256" && "sha256:"+h.Content != v.digest {
			return mistake(ErrSBOM, "it describes sha256:%s", h.Content)
		}
	}
	if want := v.lockedSBOM(); want != "" {
		// Documents end with a line feed, which a predicate cannot carry.
		if have := digestOf(append(slices.Clone(predicate), '\n')); have != want {
			return mistake(ErrSBOM, "its digest is %s, locked is %s", have, want)
		}
	}
	return nil
}

// lockedSBOM is what the lock says; empty when it says nothing of these bytes.
func (v *verification) lockedSBOM() string {
	switch {
	case v.Locked == nil:
		return ""
	case !v.program:
		return v.Locked.Images[v.name].SBOM
	}
	if b := v.Locked.Binaries[v.name]; "sha256:"+b.SHA256 == v.digest {
		return b.SBOM
	}
	return "" // of a program with C in it, made with other tools than the locked one
}
