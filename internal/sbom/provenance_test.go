package sbom

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/lock"
)

const (
	someSum = "h1:Khu2En+0gcYPZ2kuIihfswbzxv/mIHXgzPZ018Oty48="
	someHex = "2a1bb6127fb481c60f67692e22285fb306f3c6ffe62075e0ccf674d7c3adcb8f" // the example of in-toto's specification
)

func source() Source {
	in := inspection()
	for i := range in.Programs {
		in.Programs[i].Main.Sum = someSum
		for n := range in.Programs[i].Modules {
			if in.Programs[i].Modules[n].Version != "" {
				in.Programs[i].Modules[n].Sum = someSum
			}
		}
	}
	return Source{
		Image: in, Entry: lock.Image{Version: "v1.2.3", Binaries: []string{"server"}, User: "0"},
		Binaries: map[string]lock.Binary{"server": {
			Module: "example.org/server@v1.2.3", Package: "example.org/server/cmd/server", Go: "go1.26.8",
			Flags: []string{"-trimpath"}, Pins: "sha256:" + strings.Repeat("c", 64), Tree: "sha256:" + strings.Repeat("d", 64),
		}},
		ToolchainVersion: "go1.26.8", ToolchainSum: someSum,
	}
}

func TestProvenance(t *testing.T) {
	doc, err := Provenance(source())
	if err != nil {
		t.Fatal(err)
	}
	var s statement
	strict := json.NewDecoder(bytes.NewReader(doc))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&s); err != nil {
		t.Fatal(err)
	}
	if s.Type != StatementType || s.PredicateType != PredicateType || s.Predicate.RunDetails.Builder.ID != LocalBuilder || s.Predicate.BuildDefinition.BuildType != BuildType {
		t.Errorf("types %+v", s)
	}
	if len(s.Subject) != 1 || s.Subject[0].Digest["sha256"] != strings.Repeat("a", 64) {
		t.Errorf("subject %+v", s.Subject)
	}
	if level := s.Predicate.BuildDefinition.InternalParameters.SLSALevel; level != 1 {
		t.Errorf("a build on one's own machine claims level %d", level)
	}
	var have []string
	for _, d := range s.Predicate.BuildDefinition.ResolvedDependencies {
		have = append(have, d.URI)
		if d.Digest["dirHash1"] != someHex && d.Digest["orreryTree"] == "" {
			t.Errorf("%s has the digest %v", d.URI, d.Digest)
		}
	}
	want := []string{
		"pkg:generic/go@1.26.8?os=linux&arch=amd64", "pkg:golang/example.org/Lib@v2.0.0%2Bincompatible",
		"pkg:golang/example.org/fork@v0.1.0", "pkg:golang/example.org/server@v1.2.3", "tree:server",
	}
	if !slices.Equal(have, want) {
		t.Errorf("dependencies %q, want %q", have, want)
	}
}

// What cannot be proven is not claimed.
func TestNoProvenance(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Source)
		want   string
	}{
		"module without hash": {func(s *Source) { s.Image.Programs[0].Modules[0].Sum = "" }, "example.org/Lib"},
		"bad hash":            {func(s *Source) { s.Image.Programs[0].Main.Sum = "h1:AAAA" }, "example.org/server"},
		"no toolchain":        {func(s *Source) { s.ToolchainSum = "" }, "toolchain"},
		"another Go":          {func(s *Source) { s.Image.Programs[0].Go = "go1.25.0" }, "go1.25.0"},
		"no digest":           {func(s *Source) { s.Image.Digest = "latest" }, "latest"},
		"unknown binary":      {func(s *Source) { s.Binaries = nil }, "server"},
	} {
		t.Run(name, func(t *testing.T) {
			s := source()
			tc.change(&s)
			if doc, err := Provenance(s); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v does not name %q:\n%s", err, tc.want, doc)
			}
		})
	}
}
