package sbom

import (
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
)

// archives are one of each kind.
func archives() map[string]Archive {
	files := []image.FileInfo{{Path: "/bin/clang", Type: "file", SHA256: strings.Repeat("b", 64)}}
	return map[string]Archive{
		"folder": {Name: "bpf", Version: "v1.0.0", Platform: "linux/amd64", SHA256: strings.Repeat("a", 64), Files: files, Entry: lock.Binary{
			Kind: lock.KindFolder, Module: "example.org/net@v1.0.0", Package: "example.org/net/bpf", Sum: someSum, Flags: []string{"without tests"},
		}},
		"debian": {Name: "llvm", Version: "19", Platform: "linux/arm64", SHA256: strings.Repeat("a", 64), Files: files, Entry: lock.Binary{
			Kind: lock.KindDebian, Module: "debian bookworm", Package: "usr/bin/clang", Packages: []string{"clang-19 1:19.1.7-3~deb12u1 sha256:" + strings.Repeat("c", 64)},
		}},
	}
}

var archiveLicences = map[string]string{"example.org/net/bpf": "BSD-2-Clause", "deb:clang-19": "Apache-2.0 WITH LLVM-exception"}

func TestArchiveDocuments(t *testing.T) {
	valid := cycloneDXSchema(t)
	for kind, want := range map[string]struct{ sbom, provenance []string }{
		"folder": {
			[]string{"pkg:golang/example.org/net@v1.0.0", someSum, `"expression": "BSD-2-Clause"`, `"bom-ref": "file:/bin/clang"`, strings.Repeat("b", 64)},
			[]string{ArchiveBuildType, `"program": "bpf"`, `"dirHash1": "` + someHex, `"without tests"`, `"go": ""`},
		},
		"debian": {
			[]string{"pkg:deb/debian/clang-19@1%3A19.1.7-3~deb12u1?arch=arm64", `"expression": "Apache-2.0 WITH LLVM-exception"`, strings.Repeat("c", 64)},
			[]string{ArchiveBuildType, `"uri": "pkg:deb/debian/clang-19@1%3A19.1.7-3~deb12u1?arch=arm64"`, `"sha256": "` + strings.Repeat("c", 64)},
		},
	} {
		a := archives()[kind]
		doc, err := ArchiveCycloneDX(a, archiveLicences)
		if err != nil {
			t.Fatal(err)
		}
		if valid != nil {
			if err := valid(doc); err != nil {
				t.Errorf("%s: %v\n%s", kind, err, doc)
			}
		}
		statement, err := ArchiveProvenance(a)
		if err != nil {
			t.Fatal(err)
		}
		for text, parts := range map[string][]string{string(doc): want.sbom, string(statement): want.provenance} {
			for _, part := range append(parts, strings.Repeat("a", 64)) {
				if !strings.Contains(text, part) {
					t.Errorf("%s: it lacks %s:\n%s", kind, part, text)
				}
			}
		}
		if strings.Contains(string(statement), "pkg:generic/go") {
			t.Errorf("%s: nothing of it was compiled by Go", kind)
		}
	}
}

// An image with archives beside its program says what they are from, in both documents.
func TestArchivesInImage(t *testing.T) {
	a := archives()["debian"]
	doc, err := CycloneDX(inspection(), archiveLicences, a)
	if err != nil {
		t.Fatal(err)
	}
	s := source()
	s.Entry.Binaries = []string{a.Name, "server"}
	s.Binaries[a.Name] = a.Entry
	statement, err := Provenance(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"pkg:deb/debian/clang-19@1%3A19.1.7-3~deb12u1?arch=", strings.Repeat("c", 64)} {
		if !strings.Contains(string(doc), part) || !strings.Contains(string(statement), part) {
			t.Errorf("%s is not in both:\n%s\n%s", part, doc, statement)
		}
	}
	if !strings.Contains(string(statement), `"name": "server"`) {
		t.Errorf("the program is not in it:\n%s", statement)
	}
	a.Entry.Kind = ""
	if _, err := CycloneDX(inspection(), archiveLicences, a); err == nil {
		t.Error("an archive of which nothing is known is taken")
	}
}

func TestNoArchiveDocuments(t *testing.T) {
	for name, change := range map[string]func(*Archive){
		"no digest":      func(a *Archive) { a.SHA256 = "" },
		"another kind":   func(a *Archive) { a.Entry.Kind = "" },
		"module no hash": func(a *Archive) { a.Entry.Sum = "" },
	} {
		a := archives()["folder"]
		change(&a)
		if doc, err := ArchiveProvenance(a); err == nil {
			t.Errorf("%s: there is a provenance: %s", name, doc)
		}
		if doc, err := ArchiveCycloneDX(a, nil); err == nil && name != "module no hash" {
			t.Errorf("%s: there is a bill of materials: %s", name, doc)
		}
	}
}
