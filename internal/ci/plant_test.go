package ci

import (
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// withTools is a runner for a folder that has the tools of this clone; skipped when one of
// those that are needed is not compiled.
func withTools(t *testing.T, needed ...string) *Runner {
	t.Helper()
	root, err := filepath.Abs(here)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range needed {
		if _, err := (&Runner{Root: root}).tool(t.Context(), name, false); err != nil {
			t.Skip(err)
		}
	}
	r := &Runner{Root: t.TempDir(), Out: io.Discard}
	if err := os.Symlink(filepath.Join(root, "tools"), filepath.Join(r.Root, "tools")); err != nil {
		t.Fatal(err)
	}
	return r
}

// vulnDB is a database with one finding: Parse of net/url, in every version of Go.
var vulnDB = map[string]string{
	"index/db.json": `{"modified": "2026-01-01T00:00:00Z"}`,
	"index/modules.json": `[{"path": "stdlib",
		"vulns": [{"id": "GO-2026-0001", "modified": "2026-01-01T00:00:00Z"}]}]`,
	"index/vulns.json": `[{"id": "GO-2026-0001", "modified": "2026-01-01T00:00:00Z", "aliases": ["CVE-2026-00001"]}]`,
	"ID/GO-2026-0001.json": `{"schema_version": "1.3.1", "id": "GO-2026-0001", "modified": "2026-01-01T00:00:00Z",
		"aliases": ["CVE-2026-00001"], "summary": "a fixture", "affected": [{"package": {"name": "stdlib", "ecosystem": "Go"},
		"ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}]}],
		"ecosystem_specific": {"imports": [{"path": "net/url", "symbols": ["Parse"]}]}}]}`,
}

func TestVulnerabilities(t *testing.T) {
	r := withTools(t, "govulncheck")
	db := t.TempDir()
	write(t, db, vulnDB)
	t.Setenv("ORRERY_VULNDB", "file://"+db)
	program := func(does string) {
		write(t, r.Root, map[string]string{"go.mod": "module x\n\ngo 1.26\n"})
		write(t, r.Root, map[string]string{"main.go": "package main\n\nimport \"net/url\"\n\nfunc main() { " + does + " }\n"})
	}
	program(`_ = url.PathEscape("x")`)
	want(t, govulncheck(t.Context(), r), "")
	program(`_, _ = url.Parse("x")`)
	want(t, govulncheck(t.Context(), r), "govulncheck:")
	t.Setenv("ORRERY_VULNDB", "http://127.0.0.1:1/")
	want(t, govulncheck(t.Context(), r), "skipped: the database of vulnerabilities cannot be reached")
}

// A release whose program has a function that is known to be vulnerable by now.
func TestReleased(t *testing.T) {
	r := withTools(t, "govulncheck")
	_, hub := releasable(t)
	db := t.TempDir()
	write(t, db, vulnDB)
	t.Setenv("ORRERY_VULNDB", "file://"+db)
	want(t, scanReleased(t.Context(), r), "skipped: nothing has been released yet")
	here := target{runtime.GOOS, runtime.GOARCH}.file()
	publish := func(imports string) {
		t.Helper()
		src, out := t.TempDir(), filepath.Join(hub, "v0.1.0")
		write(t, src, map[string]string{"go.mod": "module x\n\ngo 1.26\n", "main.go": "package main\n\n" + imports})
		cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-s -w", "-o", filepath.Join(out, here), ".")
		cmd.Dir = src
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		sum, err := fileSum(filepath.Join(out, here))
		if err != nil {
			t.Fatal(err)
		}
		write(t, out, map[string]string{sumsFile: sum + "  " + here + "\n"})
	}
	// A stripped program does not say what it calls, but which version of what it was made of.
	publish("import \"net/url\"\n\nfunc main() { _, _ = url.Parse(\"x\") }\n")
	want(t, scanReleased(t.Context(), r), here+" of v0.1.0: govulncheck")
	write(t, db, map[string]string{"index/modules.json": "[]", "index/vulns.json": "[]"})
	want(t, scanReleased(t.Context(), r), "")
	write(t, filepath.Join(hub, "v0.1.0"), map[string]string{here: "another"})
	want(t, scanReleased(t.Context(), r), "is not what was released")
	write(t, hub, map[string]string{"v0.1.0.draft": ""})
	want(t, scanReleased(t.Context(), r), "skipped: nothing has been released yet")
	t.Setenv("PATH", t.TempDir())
	want(t, scanReleased(t.Context(), r), "skipped: gh is not on PATH")
}

// An image that nobody signed, and one that somebody else signed, in a registry on the loopback.
func TestUnsignedImage(t *testing.T) {
	r, _ := releasable(t)
	key := pairOfKeys(t)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	tag, err := name.NewTag(strings.TrimPrefix(server.URL, "http://")+"/orrery/hello:v1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	image, err := random.Image(1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, image, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	l, err := r.release(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	reference := tag.Context().Digest(digest.String()).String()
	if err := l.write(imagesFile, []pushed{{Image: "hello", Reference: reference}}); err != nil {
		t.Fatal(err)
	}
	const refused = "image hello is not signed by who released it"
	want(t, l.verifyImages(t.Context(), l.dir), refused)
	sign := func() {
		t.Helper()
		want(t, l.runCosign(t.Context(), "sign", "--yes", "--key", os.Getenv(envKey), "--tlog-upload=false", "--use-signing-config=false",
			"--allow-http-registry", reference), "")
	}
	pairOfKeys(t) // somebody else
	sign()
	t.Setenv(envKey, key)
	want(t, l.verifyImages(t.Context(), l.dir), refused)
	sign()
	want(t, l.verifyImages(t.Context(), l.dir), "")
}

// licenceText is one that a file of this machine has; skipped without it.
func licenceText(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Skip(err)
	}
	return string(data)
}

func TestLicences(t *testing.T) {
	r := &Runner{Root: t.TempDir(), Out: io.Discard}
	files := map[string]string{
		"go.mod": "module github.com/orrery-dev/orrery\n\ngo 1.26\n\nrequire example.org/dep v1.0.0\n" +
			"\nreplace example.org/dep => ./dep\n",
		"cmd/orrery/main.go":  "package main\n\nimport _ \"example.org/dep\"\n\nfunc main() {}\n",
		"dep/go.mod":          "module example.org/dep\n\ngo 1.26\n",
		"dep/dep.go":          "package dep\n",
		"dep/LICENSE":         licenceText(t, filepath.Join(here, "LICENSE")),
		"infra/licences.yaml": "apiVersion: orrery.dev/v1alpha1\nkind: LicencePolicy\nallowed: [Apache-2.0]\n",
	}
	write(t, r.Root, files)
	want(t, licences(t.Context(), r), "")
	write(t, r.Root, map[string]string{"dep/LICENSE": "Ask me.\n"})
	want(t, licences(t.Context(), r), "example.org/dep: its licence was not recognised")
	write(t, r.Root, map[string]string{"dep/LICENSE": licenceText(t, "/usr/share/common-licenses/GPL-3")}) // of Debian
	want(t, licences(t.Context(), r), "example.org/dep: licence GPL-3.0")
	want(t, os.Remove(filepath.Join(r.Root, "infra/licences.yaml")), "")
	want(t, licences(t.Context(), r), "is not there")
}

// All that is linked into orrery itself.
func TestLicencesOfThisTree(t *testing.T) {
	var out strings.Builder
	want(t, licences(t.Context(), &Runner{Root: here, Out: &out}), "")
	t.Log(out.String())
}

func TestSecretFiles(t *testing.T) {
	r := &Runner{Root: t.TempDir(), Out: io.Discard}
	want(t, secretFiles(t.Context(), r), "") // no folder
	write(t, r.Root, map[string]string{"infra/secrets/README.md": "x", "infra/secrets/age-key.txt": "git ignores it"})
	want(t, secretFiles(t.Context(), r), "")
	write(t, r.Root, map[string]string{"infra/secrets/db.yaml": "password: x\n"})
	want(t, secretFiles(t.Context(), r), "infra/secrets/db.yaml is not encrypted")
	want(t, secretFiles(t.Context(), &Runner{Root: here}), "")
}

func TestLeakedKey(t *testing.T) {
	r := withTools(t, "gitleaks")
	data, err := os.ReadFile(filepath.Join(here, ".gitleaks.toml"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, r.Root, map[string]string{".gitleaks.toml": string(data), "a.txt": "nothing\n"})
	want(t, gitleaks(t.Context(), r), "")
	// In pieces, so that it is not found here.
	write(t, r.Root, map[string]string{"a.txt": "token: ghp" + "_wQ7rT2yU9iO4pA6sD8fG1hJ3kL5zX0cVbN2m\n"})
	want(t, gitleaks(t.Context(), r), "gitleaks:")
}

func TestRust(t *testing.T) {
	for _, tool := range []string{"cargo", "cargo-fmt", "cargo-clippy"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	r := &Runner{Root: t.TempDir(), Out: io.Discard}
	write(t, r.Root, map[string]string{
		"Cargo.toml":     "[workspace]\nmembers = [\"a\"]\nresolver = \"2\"\n",
		"Cargo.lock":     "version = 3\n\n[[package]]\nname = \"a\"\nversion = \"0.1.0\"\n",
		"a/Cargo.toml":   "[package]\nname = \"a\"\nversion = \"0.1.0\"\nedition = \"2021\"\n",
		"a/src/lib.rs":   "pub fn twice(x: i32) -> i32 {\n    x * 2\n}\n",
		"rustfmt.toml":   "",
		".cargo/x":       "",
		"a/src/empty.md": "",
	})
	passes := func() {
		t.Helper()
		if err := rust(t.Context(), r); err != nil && !strings.HasPrefix(err.Error(), "skipped: what is on PATH passed") {
			t.Error(err)
		}
	}
	passes()
	write(t, r.Root, map[string]string{"a/src/lib.rs": "pub fn twice(x: i32) -> i32 { x * 2 }\n"})
	want(t, rust(t.Context(), r), "cargo-fmt:")
	write(t, r.Root, map[string]string{"a/src/lib.rs": "pub fn twice(x: i32) -> i32 {\n    return x * 2;\n}\n"})
	want(t, rust(t.Context(), r), "cargo-clippy:")
	t.Setenv("PATH", t.TempDir())
	want(t, rust(t.Context(), r), "skipped: cargo is not on PATH")
}
