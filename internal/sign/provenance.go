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
			Version     string            `json:"version"`
			Platform    string            `json:"platform"`
			User        string            `json:"user"`
			Entrypoint  []string          `json:"entrypoint"`
			Directories []string          `json:"directories"`
			Binaries    []binaryParameter `json:"binaries"`
		} `json:"externalParameters"`
		InternalParameters struct {
			Go string `json:"go"`
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

// check compares a predicate with what is expected of the image called name, and returns
// the builder. Without a lock only builder, build type and name are compared.
func (p Policy) provenance(predicate []byte, name string) (builder string, err error) {
	var pr provenance
	if err := json.Unmarshal(predicate, &pr); err != nil {
		return "", mistake(ErrProvenance, "it cannot be read: %w", err)
	}
	builder = pr.RunDetails.Builder.ID
	external := pr.BuildDefinition.ExternalParameters
	switch {
	case !slices.Contains(p.builders(), builder):
		return builder, mistake(ErrProvenance, "built by %q, which is none of %q", builder, p.builders())
	case pr.BuildDefinition.BuildType != sbom.BuildType:
		return builder, mistake(ErrProvenance, "the build type is %q and not %q", pr.BuildDefinition.BuildType, sbom.BuildType)
	case external.Image != name:
		return builder, mistake(ErrProvenance, "it is of the image %q", external.Image)
	}
	if p.Locked == nil {
		return builder, nil
	}
	entry, ok := p.Locked.Images[name]
	if !ok {
		return builder, nil // which the check of the lock says
	}
	if d := pr.differences(entry, p.Locked.Binaries); len(d) > 0 {
		return builder, mistake(ErrProvenance, "it was made from something else than the lock says: %s", strings.Join(d, "; "))
	}
	return builder, nil
}

// differences lists what is not as locked.
func (pr provenance) differences(entry lock.Image, binaries map[string]lock.Binary) []string {
	var found []string
	compare := func(field string, have, want any) {
		if h, w := fmt.Sprint(have), fmt.Sprint(want); h != w {
			found = append(found, fmt.Sprintf("%s is %s, locked is %s", field, h, w))
		}
	}
	external := pr.BuildDefinition.ExternalParameters
	compare("version", external.Version, entry.Version)
	compare("user", external.User, entry.User)
	compare("entrypoint", external.Entrypoint, entry.Entrypoint)
	compare("directories", external.Directories, entry.Directories)
	var names []string
	for _, b := range external.Binaries {
		names = append(names, b.Name)
	}
	compare("binaries", names, entry.Binaries)
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
		compare(at("module"), b.Module, want.Module)
		compare(at("package"), b.Package, want.Package)
		compare(at("flags"), b.Flags, want.Flags)
		compare(at("links"), b.Links, want.Links)
		compare(at("pins"), b.Pins, want.Pins)
		compare(at("go"), pr.BuildDefinition.InternalParameters.Go, want.Go)
		if want.Tree != "" {
			compare(at("tree"), "sha256:"+resolved["tree:"+b.Name]["orreryTree"], want.Tree)
		}
		if path, version, ok := strings.Cut(want.Module, "@"); ok {
			compare(at("sum"), resolved["pkg:golang/"+path+"@"+url.QueryEscape(version)]["dirHash1"], hexSum(want.Sum))
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

// sbom compares a bill of materials with the image NAME@DIGEST, and with the lock.
func (p Policy) sbom(predicate []byte, name, digest string) error {
	var b bom
	if err := json.Unmarshal(predicate, &b); err != nil {
		return mistake(ErrSBOM, "it cannot be read: %w", err)
	}
	root := b.Metadata.Component
	if b.BOMFormat != "CycloneDX" || root.Name != name {
		return mistake(ErrSBOM, "it is a %q document about %q", b.BOMFormat, root.Name)
	}
	for _, h := range root.Hashes {
		if h.Alg == "SHA-256" && "sha256:"+h.Content != digest {
			return mistake(ErrSBOM, "it describes sha256:%s", h.Content)
		}
	}
	if p.Locked != nil && p.Locked.Images[name].SBOM != "" {
		// Documents end with a line feed, which a predicate cannot carry.
		if have, want := digestOf(append(slices.Clone(predicate), '\n')), p.Locked.Images[name].SBOM; have != want {
			return mistake(ErrSBOM, "its digest is %s, locked is %s", have, want)
		}
	}
	return nil
}
