package sign

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/sbom"
)

// madeProgram is a program of the nodes with its documents and its place in the lock.
type madeProgram struct {
	file, sha256 string
	docs         Documents
	locked       *lock.Platform
}

func makeProgram(t testing.TB, name string, cTools ...string) madeProgram {
	t.Helper()
	p := madeProgram{file: filepath.Join(t.TempDir(), name)}
	if err := os.WriteFile(p.file, []byte("the program "+name), 0o755); err != nil {
		t.Fatal(err)
	}
	p.sha256 = strings.TrimPrefix(digestOf([]byte("the program "+name)), "sha256:")
	entry := lock.Binary{
		Module: "example.org/node@v1.0.0", Sum: someSum, Package: "example.org/node", Go: "go1.26.8",
		Flags: []string{"-trimpath"}, SHA256: p.sha256, CTools: cTools,
	}
	of := sbom.Program{
		Name: name, Version: "v1.0.0", Platform: "linux/amd64", SHA256: p.sha256, Entry: entry,
		Info:             build.ProgramInfo{Package: "example.org/node", Go: "go1.26.8", Main: build.Module{Path: "example.org/node", Version: "v1.0.0", Sum: someSum}},
		ToolchainVersion: "go1.26.8", ToolchainSum: someSum,
	}
	var err error
	if p.docs.SBOM, err = sbom.ProgramCycloneDX(of, map[string]string{"example.org/node": "MIT", "deb:libc6-dev": "LGPL-2.1-or-later"}); err != nil {
		t.Fatal(err)
	}
	if p.docs.Provenance, err = sbom.ProgramProvenance(of); err != nil {
		t.Fatal(err)
	}
	entry.SBOM = digestOf(p.docs.SBOM)
	p.locked = &lock.Platform{Binaries: map[string]lock.Binary{name: entry}}
	return p
}

func TestVerifyProgram(t *testing.T) {
	k := anyKey(t)
	p := makeProgram(t, "kubelet")
	sealed, err := Seal(p.sha256, k, p.docs)
	if err != nil {
		t.Fatal(err)
	}
	r, err := VerifyProgram("kubelet", p.file, sealed, Policy{Keys: []PublicKey{k.Public()}, Locked: p.locked})
	if err != nil {
		t.Fatal(err)
	}
	if !r.OK() || len(r.Checks) != 5 || r.Signer != k.Public().Fingerprint() || r.Builder != sbom.LocalBuilder || r.Digest != "sha256:"+p.sha256 {
		t.Errorf("%+v", r)
	}
	if !SealedWith(p.sha256, k.Public(), sealed, p.docs) {
		t.Error("what was just sealed would be sealed again")
	}
	for name, again := range map[string]bool{
		"another key":      SealedWith(p.sha256, anyKey(t).Public(), sealed, p.docs),
		"another program":  SealedWith(strings.Repeat("0", 64), k.Public(), sealed, p.docs),
		"another document": SealedWith(p.sha256, k.Public(), sealed, Documents{SBOM: []byte("{}"), Provenance: p.docs.Provenance}),
		"a document more":  SealedWith(p.sha256, k.Public(), Documents{SBOM: sealed.SBOM}, p.docs),
	} {
		if again {
			t.Errorf("%s: it counts as sealed", name)
		}
	}
}

// Each of these is refused, with a message that says which check failed.
func TestRefusedProgram(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(t *testing.T, p *madeProgram, sealed *Documents, policy *Policy)
		check string
		kind  error
		says  string
	}{
		{"no file", func(_ *testing.T, p *madeProgram, _ *Documents, _ *Policy) { p.file += "-gone" }, CheckContent, os.ErrNotExist, "not there"},
		{"flipped byte", func(t *testing.T, p *madeProgram, _ *Documents, _ *Policy) {
			if err := os.WriteFile(p.file, []byte("the Program kubelet"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, CheckSignature, ErrTampered, "not the one that was signed"},
		{"flipped byte and the lock", func(t *testing.T, p *madeProgram, _ *Documents, _ *Policy) {
			if err := os.WriteFile(p.file, []byte("the Program kubelet"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, CheckLock, ErrNotLocked, "locked is sha256:"},
		{"nothing signed", func(_ *testing.T, _ *madeProgram, sealed *Documents, _ *Policy) { *sealed = Documents{} }, CheckSignature, ErrUnsigned, "nothing is said of it"},
		{"no provenance", func(_ *testing.T, _ *madeProgram, sealed *Documents, _ *Policy) { sealed.Provenance = nil }, CheckProvenance, ErrProvenance, "none is attached"},
		{"no bill of materials", func(_ *testing.T, _ *madeProgram, sealed *Documents, _ *Policy) { sealed.SBOM = nil }, CheckSBOM, ErrSBOM, "none is attached"},
		{"wrong key", func(t *testing.T, _ *madeProgram, _ *Documents, policy *Policy) {
			policy.Keys = []PublicKey{anyKey(t).Public()}
		}, CheckSignature, ErrWrongKey, "not trusted"},
		{"tampered statement", func(_ *testing.T, _ *madeProgram, sealed *Documents, _ *Policy) {
			sealed.Provenance = bytes.Replace(sealed.Provenance, []byte(`"payload":"e`), []byte(`"payload":"f`), 1)
		}, CheckProvenance, ErrTampered, "tampered"},
		{"documents of another program", func(t *testing.T, _ *madeProgram, sealed *Documents, policy *Policy) {
			other := makeProgram(t, "runc")
			k := anyKey(t)
			policy.Keys = append(policy.Keys, k.Public())
			var err error
			if *sealed, err = Seal(other.sha256, k, other.docs); err != nil {
				t.Fatal(err)
			}
		}, CheckProvenance, ErrProvenance, "another digest"},
		{"another builder", func(_ *testing.T, _ *madeProgram, _ *Documents, policy *Policy) {
			policy.Builders = []string{"https://example.org/ci"}
		}, CheckProvenance, ErrBuilder, "images.builders"},
		{"another source", func(_ *testing.T, p *madeProgram, _ *Documents, _ *Policy) {
			e := p.locked.Binaries["kubelet"]
			e.Module = "example.org/node@v2.0.0"
			p.locked.Binaries["kubelet"] = e
		}, CheckProvenance, ErrProvenance, "example.org/node@v2.0.0"},
		{"another bill of materials", func(_ *testing.T, p *madeProgram, _ *Documents, _ *Policy) {
			e := p.locked.Binaries["kubelet"]
			e.SBOM = "sha256:" + strings.Repeat("0", 64)
			p.locked.Binaries["kubelet"] = e
		}, CheckSBOM, ErrSBOM, "locked is sha256:0000"},
		{"not in the lock", func(_ *testing.T, p *madeProgram, _ *Documents, _ *Policy) { delete(p.locked.Binaries, "kubelet") }, CheckLock, ErrNotLocked, "does not have it"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := anyKey(t)
			p := makeProgram(t, "kubelet")
			sealed, err := Seal(p.sha256, k, p.docs)
			if err != nil {
				t.Fatal(err)
			}
			policy := Policy{Keys: []PublicKey{k.Public()}, Locked: p.locked}
			tc.spoil(t, &p, &sealed, &policy)
			r, err := VerifyProgram("kubelet", p.file, sealed, policy)
			if err == nil || r.OK() {
				t.Fatalf("accepted: %+v", r)
			}
			var found bool
			for _, c := range r.Checks {
				found = found || c.Check == tc.check && c.State == Failed
			}
			if !found || !errors.Is(err, tc.kind) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("check %q: %v\n%+v", tc.check, err, r.Checks)
			}
		})
	}
}

// TestProgramWithOtherCTools: the lock cannot ask for bytes that only one distribution's C
// tools make.
func TestProgramWithOtherCTools(t *testing.T) {
	k := anyKey(t)
	p := makeProgram(t, "runc", "gcc (Debian 14) 14.1", "libc6-dev 2.40-1 amd64")
	sealed, err := Seal(p.sha256, k, p.docs)
	if err != nil {
		t.Fatal(err)
	}
	e := p.locked.Binaries["runc"]
	e.SHA256, e.CTools = strings.Repeat("0", 64), []string{"gcc (Debian 12) 12.2", "libc6-dev 2.36-1 amd64"}
	p.locked.Binaries["runc"] = e
	r, err := VerifyProgram("runc", p.file, sealed, Policy{Keys: []PublicKey{k.Public()}, Locked: p.locked})
	if err != nil || r.Checks[4].Check != CheckLock || r.Checks[4].State != Skipped {
		t.Errorf("%v, %+v", err, r.Checks)
	}
	e.CTools = []string{"gcc (Debian 14) 14.1", "libc6-dev 2.40-1 amd64"}
	p.locked.Binaries["runc"] = e
	if _, err := VerifyProgram("runc", p.file, sealed, Policy{Keys: []PublicKey{k.Public()}, Locked: p.locked}); !errors.Is(err, ErrNotLocked) {
		t.Errorf("other bytes by the same tools: %v", err)
	}
}

// TestCosignAcceptsPrograms has the real cosign verify what Seal made, by the command line
// that docs/reference/signatures.md gives.
func TestCosignAcceptsPrograms(t *testing.T) {
	findCosign(t)
	k, dir := testKey(t)
	p := makeProgram(t, "kubelet")
	sealed, err := Seal(p.sha256, k, p.docs)
	if err != nil {
		t.Fatal(err)
	}
	for kind, data := range map[string][]byte{"slsaprovenance1": sealed.Provenance, "cyclonedx": sealed.SBOM} {
		file := filepath.Join(t.TempDir(), "bundle.sigstore.json")
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
		args := []string{"verify-blob-attestation", "--key", filepath.Join(dir, PublicFile), "--insecure-ignore-tlog", "--bundle", file, "--type", kind}
		if out, log, err := cosign(t, append(args, p.file)...); err != nil {
			t.Errorf("%s: %v\n%s%s", kind, err, out, log)
		}
		other := makeProgram(t, "another")
		if out, log, err := cosign(t, append(args, other.file)...); err == nil {
			t.Errorf("%s: cosign accepts another file:\n%s%s", kind, out, log)
		}
	}
}

// TestVerifyArchive: an archive is held to the lock by what it was packed from, and is no
// program.
func TestVerifyArchive(t *testing.T) {
	k := anyKey(t)
	file := filepath.Join(t.TempDir(), "llvm")
	content := []byte("an archive")
	sum := strings.TrimPrefix(digestOf(content), "sha256:")
	const pin = "clang-19 1:19.1.7-3 sha256:"
	for name, tc := range map[string]struct {
		write  []byte
		locked func(*lock.Binary)
		verify func(string, string, Documents, Policy) (Report, error)
		kind   error
		says   string
	}{
		"as it should be": {},
		"flipped byte":    {write: []byte("an Archive"), kind: ErrTampered, says: "archive llvm@sha256:"},
		"another package": {locked: func(b *lock.Binary) { b.Packages = []string{pin + strings.Repeat("e", 64)} }, kind: ErrProvenance, says: "llvm.packages.clang-19"},
		"another archive": {locked: func(b *lock.Binary) { b.SHA256 = strings.Repeat("0", 64) }, kind: ErrNotLocked, says: "locked is sha256:000"},
		"as a program":    {verify: VerifyProgram, kind: ErrProvenance, says: "build type"},
	} {
		t.Run(name, func(t *testing.T) {
			entry := lock.Binary{Kind: lock.KindDebian, Module: "debian bookworm", Package: "usr/bin/clang", Packages: []string{pin + strings.Repeat("d", 64)}, SHA256: sum}
			a := sbom.Archive{Name: "llvm", Version: "19", Platform: "linux/amd64", SHA256: sum, Entry: entry}
			var docs Documents
			var err error
			if docs.SBOM, err = sbom.ArchiveCycloneDX(a, nil); err != nil {
				t.Fatal(err)
			}
			if docs.Provenance, err = sbom.ArchiveProvenance(a); err != nil {
				t.Fatal(err)
			}
			entry.SBOM = digestOf(docs.SBOM)
			sealed, err := Seal(sum, k, docs)
			if err != nil {
				t.Fatal(err)
			}
			if tc.locked != nil {
				tc.locked(&entry)
			}
			if tc.write == nil {
				tc.write = content
			}
			if err := os.WriteFile(file, tc.write, 0o600); err != nil {
				t.Fatal(err)
			}
			if tc.verify == nil {
				tc.verify = VerifyArchive
			}
			r, err := tc.verify("llvm", file, sealed, Policy{Keys: []PublicKey{k.Public()}, Locked: &lock.Platform{Binaries: map[string]lock.Binary{"llvm": entry}}})
			if tc.kind == nil {
				if err != nil || !r.OK() || len(r.Checks) != 5 {
					t.Errorf("%v, %+v", err, r)
				}
				return
			}
			if r.OK() || !errors.Is(err, tc.kind) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v, want %q", err, tc.says)
			}
		})
	}
}
