package ci

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

const changelog = "# Changelog\n\n## Unreleased\n\nnothing yet\n\n## [0.1.0] - 2026-11-30\n\nThe first.\n\n## 0.0.1\n\nBefore it.\n"

// fakeOrrery is the command line of a fixture: what it would push it says.
const fakeOrrery = `package main

import (
	"fmt"
	"os"
)

func main() {
	switch a := os.Args; a[1] + " " + a[2] {
	case "images push":
		fmt.Println(` + "`" + `[{"image": "nats", "reference": "127.0.0.1:5000/orrery/nats@sha256:` + sha + `"}]` + "`" + `)
	case "bundle create":
		os.WriteFile(a[3], []byte("bundle"), 0o644)
		os.WriteFile(a[3]+".pub", []byte("key"), 0o644)
	}
}
`

const sha = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// fakeGH keeps releases as folders, and a file draft beside each. It fails in the middle of an
// upload when told to.
const fakeGH = `#!/bin/sh
set -e
[ "$1" = release ]
at=$GH_FIXTURE/$3
case $2 in
view)
	if [ "$3" = --json ]; then # the newest
		for at in "$GH_FIXTURE"/v*; do
			[ ! -d "$at" ] || [ -e "$at.draft" ] || { printf '{"tagName":"%s"}' "${at##*/}"; exit 0; }
		done
		echo "release not found" >&2
		exit 1
	fi
	[ -d "$at" ] || { echo "release not found" >&2; exit 1; }
	draft=false; [ ! -e "$at.draft" ] || draft=true
	printf '{"isDraft":%s,"assets":[' $draft
	sep=
	for f in "$at"/*; do
		[ -e "$f" ] || continue
		printf '%s{"name":"%s","digest":"sha256:%s"}' "$sep" "${f##*/}" "$(sha256sum "$f" | cut -d' ' -f1)"
		sep=,
	done
	printf ']}' ;;
create) mkdir -p "$at"; touch "$at.draft" ;;
upload)
	shift 4
	for f in "$@"; do
		echo "${f##*/}" >>"$GH_FIXTURE/sent"
		cp "$f" "$at/"
		[ -z "$GH_BREAKS" ] || { echo "connection lost" >&2; exit 1; }
	done ;;
download) cp "$at"/* "$5/" ;;
edit) rm "$at.draft" ;;
esac
`

// releasable is a clone with a tag, and gh on PATH.
func releasable(t *testing.T) (r *Runner, hub string) {
	t.Helper()
	gone := []string{envTag, envRegistry, envKey, envImages, envComponents, envProvenance, "GITHUB_REF_TYPE", "GITHUB_REF_NAME",
		"GH_TOKEN", "GITHUB_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL", "SIGSTORE_ID_TOKEN", "ORRERY_CI_LOGS"}
	for _, name := range gone {
		t.Setenv(name, "")
	}
	r = clone(t, map[string]string{
		"CHANGELOG.md":           changelog,
		".gitignore":             "/dist/\n",
		"go.mod":                 "module github.com/orrery-dev/orrery\n\ngo 1.26\n",
		"cmd/orrery/main.go":     fakeOrrery,
		"infra/licences.yaml":    "apiVersion: orrery.dev/v1alpha1\nkind: LicencePolicy\nallowed: [MIT]\n",
		"infra/k8s/overlays/x/a": "",
	})
	git(t, r.Root, "tag", "v0.1.0")
	hub = t.TempDir()
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "gh"), []byte(fakeGH), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("GH_FIXTURE", hub)
	return r, hub
}

func TestReleaseRefuses(t *testing.T) {
	r, _ := releasable(t)
	version := func() error { return releasing((*release).version)(t.Context(), r) }
	want(t, version(), "")
	t.Setenv(envTag, "v0.2.0")
	want(t, version(), "has no tag v0.2.0")
	git(t, r.Root, "tag", "v0.2.0")
	want(t, version(), `the newest in CHANGELOG.md is "0.1.0"`)
	t.Setenv(envTag, "nightly")
	want(t, version(), "is no version")
	t.Setenv(envTag, "")
	write(t, r.Root, map[string]string{"new": "x"})
	want(t, version(), "?? new")
	git(t, r.Root, "add", "-A")
	git(t, r.Root, "commit", "-q", "-m", "Something after the release")
	want(t, version(), "") // a rehearsal
	t.Setenv("GITHUB_REF_TYPE", "tag")
	t.Setenv("GITHUB_REF_NAME", "v0.1.0")
	want(t, version(), "and HEAD at")

	shallow := t.TempDir()
	git(t, shallow, "clone", "-q", "--depth", "1", "--no-tags", "file://"+r.Root, "c")
	r = &Runner{Root: filepath.Join(shallow, "c"), Out: io.Discard}
	want(t, version(), "--unshallow")
	r = &Runner{Root: t.TempDir(), Out: io.Discard}
	want(t, version(), "a commit in a clone")
	t.Setenv("PATH", t.TempDir())
	want(t, version(), "git is not on PATH")
}

// result is what a job came to.
func result(t *testing.T, r *Runner, job string) string {
	t.Helper()
	results, err := r.Run(t.Context(), job)
	if err != nil || len(results) != 1 {
		t.Fatal(results, err)
	}
	return strings.TrimSpace(results[0].Result + " " + results[0].Why)
}

// pairOfKeys is a cosign.key with its public half; skipped without cosign.
func pairOfKeys(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs(here)
	if err != nil {
		t.Fatal(err)
	}
	cosign, err := (&Runner{Root: root}).cosign(t.Context())
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), cosign, "generate-key-pair")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "COSIGN_PASSWORD=secret")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Setenv("PATH", filepath.Dir(cosign)+":"+os.Getenv("PATH"))
	t.Setenv("ORRERY_KEY_PASSWORD", "secret")
	t.Setenv(envKey, filepath.Join(dir, "cosign.key"))
	return filepath.Join(dir, "cosign.key")
}

// A whole release, which breaks off in the middle and goes on.
func TestRelease(t *testing.T) {
	// Others cost a compiler's cache each.
	all, here := targets, target{runtime.GOOS, runtime.GOARCH}
	targets = []target{here}
	t.Cleanup(func() { targets = all })
	r, hub := releasable(t)
	dir := filepath.Join(r.Root, "dist", "v0.1.0")

	results, err := r.Run(t.Context(), "release")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, x := range results {
		got[x.Job] = x.Result + " " + x.Why
	}
	for job, part := range map[string]string{
		"release-version": "passed", "release-binaries": "passed", "release-checksums": "passed", "release-bundle": "passed",
		"release-sbom": "", "release-images": "skipped " + envRegistry, "release-sign": "skipped no OIDC token",
		"release-draft": "skipped neither GH_TOKEN", "release-verify": "skipped neither GH_TOKEN", "release-undraft": "skipped neither GH_TOKEN",
	} {
		if !strings.HasPrefix(got[job], part) {
			t.Errorf("%s: %s", job, got[job])
		}
	}
	for _, file := range []string{here.file(), here.file() + sbomSuffix, sumsFile} {
		if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
			t.Error(err)
		}
	}
	if data, _ := os.ReadFile(filepath.Join(dir, here.file()+sbomSuffix)); !bytes.Contains(data, []byte(`"version": "v0.1.0"`)) {
		t.Errorf("the bill of materials does not name the version:\n%s", data)
	}

	t.Setenv("GH_TOKEN", "x")
	t.Setenv("GH_BREAKS", "1")
	if s := result(t, r, "release-draft"); !strings.Contains(s, "connection lost") {
		t.Error(s)
	}
	t.Setenv("GH_BREAKS", "")
	if s := result(t, r, "release-draft"); s != Passed {
		t.Error(s)
	}
	sent, _ := os.ReadFile(filepath.Join(hub, "sent"))
	names, err := assets(dir)
	if err != nil || strings.Count(string(sent), "\n") != len(names) {
		t.Errorf("of %d files were sent, in two runs: %s", len(names), sent)
	}
	// Unsigned, it stays a draft.
	if s := result(t, r, "release-verify"); !strings.Contains(s, "stays a draft") {
		t.Error(s)
	}
	if s := result(t, r, "release-undraft"); !strings.Contains(s, "was not verified") {
		t.Error(s)
	}

	key := pairOfKeys(t)
	if s := result(t, r, "release-sign"); s != Passed {
		t.Fatal(s)
	}
	for _, change := range []struct{ name, data, say string }{
		{here.file(), "another program", "the list says"},
		{"malware", "x", "is in no list"},
	} {
		if s := result(t, r, "release-draft"); s != Passed {
			t.Fatal(s)
		}
		file := filepath.Join(hub, "v0.1.0", change.name)
		if err := os.WriteFile(file, []byte(change.data), 0o644); err != nil {
			t.Fatal(err)
		}
		if s := result(t, r, "release-verify"); !strings.Contains(s, change.say) {
			t.Errorf("%s: %s", change.name, s)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	if s := result(t, r, "release-draft"); s != Passed {
		t.Fatal(s)
	}
	l, err := r.release(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want(t, l.verifySignature(t.Context(), dir), "")
	// Signed by somebody else.
	pairOfKeys(t)
	want(t, l.verifySignature(t.Context(), dir), "cosign verify-blob")
	t.Setenv(envKey, key)
	// As nothing signs the images of a fixture, what is left is said by hand.
	sum, err := fileSum(filepath.Join(dir, sumsFile))
	if err != nil {
		t.Fatal(err)
	}
	write(t, r.Root, map[string]string{"dist/v0.1.0.verified": strings.Repeat("0", 64) + "\n"})
	if s := result(t, r, "release-undraft"); !strings.Contains(s, "changed since it was verified") {
		t.Error(s)
	}
	write(t, r.Root, map[string]string{"dist/v0.1.0.verified": sum + "\n"})
	for range 2 {
		if s := result(t, r, "release-undraft"); s != Passed {
			t.Error(s)
		}
	}
	if _, err := os.Stat(filepath.Join(hub, "v0.1.0.draft")); err == nil {
		t.Error("it is a draft still")
	}
	// What is published does not change.
	if s := result(t, r, "release-draft"); s != Passed {
		t.Error(s)
	}
	write(t, dir, map[string]string{here.file(): "another"})
	if s := result(t, r, "release-checksums"); s != Passed {
		t.Fatal(s)
	}
	if s := result(t, r, "release-draft"); !strings.Contains(s, "is published already") {
		t.Error(s)
	}
}

func TestSums(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"a": "a", sumsFile: "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb  a\n"})
	want(t, checkSums(dir), "")
	write(t, dir, map[string]string{sumsFile: sha + "  a\n" + sha + "  b\n"})
	want(t, checkSums(dir), "a is sha256:ca97")
	want(t, checkSums(dir), "b is not there")
	write(t, dir, map[string]string{sumsFile: sha + "  ../a\n"})
	want(t, checkSums(dir), "no line of sha256sum")
}

func TestSameModules(t *testing.T) {
	bill := func(purls ...string) []byte {
		var b struct {
			BOMFormat  string              `json:"bomFormat"`
			Components []map[string]string `json:"components"`
		}
		b.BOMFormat = "CycloneDX"
		for _, p := range purls {
			b.Components = append(b.Components, map[string]string{"purl": p})
		}
		data, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	ours := bill("pkg:golang/std@1.26.8", "pkg:golang/example.org/A@v1.0.0%2Bincompatible", "pkg:golang/example.org/b@v1.0.0")
	theirs := bill("pkg:golang/stdlib@1.26.8", "pkg:golang/example.org/A@v1.0.0+incompatible", "pkg:golang/example.org/b@v1.0.0#sub")
	want(t, sameModules(ours, theirs), "")
	want(t, sameModules(ours, bill("pkg:golang/example.org/a@v1.0.0+incompatible")), "b@v1.0.0 is in ours only")
	want(t, sameModules(bill(), ours), "b@v1.0.0 is missing in ours")
	want(t, sameModules(ours, []byte("{}")), "not CycloneDX")
}

func TestProvenance(t *testing.T) {
	good := `{"_type": "https://in-toto.io/Statement/v1", "predicateType": "https://slsa.dev/provenance/v1",
		"subject": [{"name": "orrery-linux-amd64", "digest": {"sha256": "` + sha + `"}}],
		"predicate": {"buildDefinition": {"buildType": "https://actions.github.io/buildtypes/workflow/v1",
			"externalParameters": {"workflow":
				{"ref": "refs/tags/v1.0.0", "repository": "https://github.com/o/r", "path": ".github/workflows/release.yml"}},
			"resolvedDependencies": [{"uri": "git+https://github.com/o/r@refs/tags/v1.0.0", "digest": {"gitCommit": "c0ffee"}}]},
			"runDetails": {"builder": {"id": "https://github.com/actions/runner/github-hosted"}}}}`
	o := origin{
		repository: "https://github.com/o/r", ref: "refs/tags/v1.0.0", workflow: releaseWorkflow, commit: "c0ffee", builder: githubBuilder,
	}
	want(t, checkProvenance([]byte(good), "orrery-linux-amd64", sha, o), "")
	for _, c := range []struct{ old, new, say string }{
		{"runner/github-hosted", "runner/self-hosted", "its builder is"},
		{sha, strings.Repeat("1", 64), "it is not about orrery-linux-amd64"},
		{`"repository": "https://github.com/o/r"`, `"repository": "https://github.com/evil/r"`, "its repository is"},
		{"workflows/release.yml", "workflows/test.yml", "its workflow is"},
		{`"ref": "refs/tags/v1.0.0"`, `"ref": "refs/heads/main"`, "its ref is"},
		{"c0ffee", "decaf0", "its commit is"},
		{"slsa.dev/provenance/v1", "slsa.dev/provenance/v0.2", "its predicate type is"},
		{"buildtypes/workflow", "buildtypes/other", "its build type is"},
		{`"_type"`, `_type`, "cannot be read"},
	} {
		want(t, checkProvenance([]byte(strings.Replace(good, c.old, c.new, 1)), "orrery-linux-amd64", sha, o), c.say)
	}
}

func TestBump(t *testing.T) {
	root := t.TempDir()
	old, other := "sha256:"+strings.Repeat("1", 64), "sha256:"+strings.Repeat("2", 64)
	kustomization := "images:\n  # why\n  - name: ghcr.io/o/nats\n    digest: %s # kept\n" +
		"  - name: ghcr.io/o/nats-box\n    digest: " + other + "\n"
	values := "a: ghcr.io/o/nats:v1@%s\nb: x/ghcr.io/o/nats@" + other + "\nc: \"ghcr.io/o/nats@%[1]s\"\n"
	write(t, root, map[string]string{
		"infra/k8s/overlays/prod/nats/kustomization.yaml": fmt.Sprintf(kustomization, old),
		"infra/k8s/overlays/prod/nats/values.yaml":        fmt.Sprintf(values, old),
	})
	digest := "sha256:" + sha
	for i, n := range []int{2, 0} { // a second time there is nothing to do
		changed, err := Bump(root, "ghcr.io/o/nats", digest)
		if err != nil || len(changed) != n {
			t.Errorf("run %d: %v %v", i, changed, err)
		}
	}
	for name, form := range map[string]string{"kustomization.yaml": kustomization, "values.yaml": values} {
		data, err := os.ReadFile(filepath.Join(root, "infra/k8s/overlays/prod/nats", name))
		if err != nil || string(data) != fmt.Sprintf(form, digest) {
			t.Errorf("%s, %v", data, err)
		}
	}
	_, err := Bump(root, "ghcr.io/o/nothing", digest)
	want(t, err, "nothing under infra/k8s names")
	_, err = Bump(root, "ghcr.io/o/nats", "latest")
	want(t, err, "is no digest")
}

// Provenance that the real cosign has signed: of this release, of another builder, of another file.
func TestVerifyProvenance(t *testing.T) {
	key := pairOfKeys(t)
	t.Setenv("GITHUB_REPOSITORY", "o/r")
	t.Setenv("ACTIONS_ID_TOKEN_REQUEST_URL", "")
	t.Setenv("SIGSTORE_ID_TOKEN", "")
	root, err := filepath.Abs(here)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	l := &release{Runner: &Runner{Root: root, Out: io.Discard}, tag: "v1.0.0", commit: "c0ffee", dir: dir}
	want(t, l.verifyProvenance(t.Context(), dir), "skipped: there is no provenance")
	write(t, dir, map[string]string{"orrery-x": "program"})
	want(t, l.checksums(t.Context()), "")
	attest := func(builder string) {
		t.Helper()
		predicate := filepath.Join(t.TempDir(), "predicate.json")
		text := `{"buildDefinition": {"buildType": "` + githubBuildType + `", "externalParameters": {"workflow":
			{"ref": "refs/tags/v1.0.0", "repository": "https://github.com/o/r", "path": "` + releaseWorkflow + `"}},
			"resolvedDependencies": [{"uri": "git+https://github.com/o/r@refs/tags/v1.0.0", "digest": {"gitCommit": "c0ffee"}}]},
			"runDetails": {"builder": {"id": "` + builder + `"}}}`
		if err := os.WriteFile(predicate, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		want(t, l.runCosign(t.Context(), "attest-blob", "--yes", "--key", key, "--type", "slsaprovenance1", "--predicate", predicate,
			"--tlog-upload=false", "--use-signing-config=false", "--bundle", filepath.Join(dir, provenanceFile), filepath.Join(dir, "orrery-x")), "")
	}
	attest(githubBuilder)
	want(t, l.verifyProvenance(t.Context(), dir), "")
	attest("https://example.org/somebody")
	want(t, l.verifyProvenance(t.Context(), dir), `its builder is "https://example.org/somebody"`)
	attest(githubBuilder)
	write(t, dir, map[string]string{"orrery-x": "another program"})
	want(t, l.verifyProvenance(t.Context(), dir), "provenance of orrery-x: cosign")
}
