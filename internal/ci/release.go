package ci

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

// Variables of a release.
const (
	envTag        = "ORRERY_RELEASE_TAG"        // default: GitHub's, or the tag of HEAD
	envRegistry   = "ORRERY_RELEASE_REGISTRY"   // HOST[:PORT]/PATH for images and what is compiled
	envKey        = "ORRERY_RELEASE_KEY"        // cosign.key to sign with, where there is no OIDC
	envImages     = "ORRERY_RELEASE_IMAGES"     // some images, separated by blanks; default: all
	envComponents = "ORRERY_RELEASE_COMPONENTS" // of the bundle, separated by commas; default: all
	envProvenance = "ORRERY_RELEASE_PROVENANCE" // GitHub's provenance of SHA256SUMS, a sigstore bundle
)

const (
	sumsFile   = "SHA256SUMS"
	imagesFile = "images.json"
	sigSuffix  = ".sigstore.json"
)

// target is a platform that a release has the command line for.
type target struct{ os, arch string }

func (t target) file() string { return "orrery-" + t.os + "-" + t.arch }

// A Mac has the client only: clusters run elsewhere.
var targets = []target{{"linux", "amd64"}, {"linux", "arm64"}, {"darwin", "arm64"}}

// release is what HEAD is released as.
type release struct {
	*Runner
	tag, commit string
	rehearsal   bool   // HEAD has no tag: nothing is published
	dir         string // of what is released
}

var tagForm = regexp.MustCompile(`^v(\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?)$`)

// release finds what HEAD is released as, and refuses what cannot be released.
func (r *Runner) release(ctx context.Context) (*release, error) {
	commit, err := r.git(ctx, "rev-parse", "HEAD")
	if err != nil {
		return nil, fmt.Errorf("a release is made of a commit in a clone: %w", err)
	}
	dirty, err := r.git(ctx, "status", "--porcelain", "--untracked-files=normal")
	if err != nil {
		return nil, err
	}
	if dirty != "" {
		return nil, fmt.Errorf("%s\nthe tree is not what HEAD is: commit, stash or ignore these", dirty)
	}
	l := &release{Runner: r, commit: commit, tag: os.Getenv(envTag)}
	if l.tag == "" && os.Getenv("GITHUB_REF_TYPE") == "tag" {
		l.tag = os.Getenv("GITHUB_REF_NAME")
	}
	if l.tag == "" {
		l.tag, _ = r.git(ctx, "describe", "--tags", "--exact-match", "--match", "v*", "HEAD")
	}
	if l.tag == "" {
		l.rehearsal, l.tag = true, "v0.0.0-"+commit[:12]
	} else if err := l.checkTag(ctx); err != nil {
		return nil, err
	}
	l.dir = filepath.Join(r.Root, "dist", l.tag)
	return l, os.MkdirAll(l.dir, 0o755)
}

// checkTag holds the tag to HEAD, and to the version that the changelog has.
func (l *release) checkTag(ctx context.Context) error {
	form := tagForm.FindStringSubmatch(l.tag)
	if form == nil {
		return fmt.Errorf("tag %q is no version: want v1.2.3 or v1.2.3-rc.1", l.tag)
	}
	at, err := l.git(ctx, "rev-parse", "--verify", "--quiet", "refs/tags/"+l.tag+"^{commit}")
	if err != nil {
		return fmt.Errorf("this clone has no tag %s: git fetch --tags, and --unshallow when the clone is shallow", l.tag)
	}
	if at != l.commit {
		return fmt.Errorf("tag %s is at %.12s and HEAD at %.12s: git checkout %s", l.tag, at, l.commit, l.tag)
	}
	version, _, err := newest(l.Root)
	if err != nil {
		return err
	}
	if version != form[1] {
		return fmt.Errorf("tag %s does not match the version: the newest in CHANGELOG.md is %q;"+
			" give the section of this release its heading, and tag that commit", l.tag, version)
	}
	return nil
}

var heading = regexp.MustCompile(`(?m)^## \[?([^\]\s]+)\]?.*$`)

// newest is the newest version of the changelog and what is said of it.
func newest(root string) (version, notes string, err error) {
	data, err := os.ReadFile(filepath.Join(root, "CHANGELOG.md"))
	if err != nil {
		return "", "", fmt.Errorf("the version is in the changelog: %w", err)
	}
	found := heading.FindAllSubmatchIndex(data, -1)
	for i, m := range found {
		if version = string(data[m[2]:m[3]]); strings.EqualFold(version, "unreleased") {
			continue
		}
		end := len(data)
		if i+1 < len(found) {
			end = found[i+1][0]
		}
		return version, strings.TrimSpace(string(data[m[1]:end])), nil
	}
	return "", "", nil
}

// releasing makes a job of what a release does.
func releasing(do func(*release, context.Context) error) func(context.Context, *Runner) error {
	return func(ctx context.Context, r *Runner) error {
		l, err := r.release(ctx)
		if err != nil {
			// Not skipped: a release that nobody made must not look like one.
			return errors.New(strings.ReplaceAll(err.Error(), "skipped: ", ""))
		}
		return do(l, ctx)
	}
}

func (l *release) say(format string, a ...any) { fmt.Fprintf(l.Out, format+"\n", a...) }

func (l *release) version(context.Context) error {
	if l.rehearsal {
		l.say("HEAD (%.12s) has no tag: a rehearsal, called %s, of which nothing is published on GitHub", l.commit, l.tag)
	} else {
		l.say("%s is %s", l.tag, l.commit)
	}
	return nil
}

// binaries compiles the command line for every platform.
func (l *release) binaries(ctx context.Context) error {
	for _, t := range targets {
		cmd := l.command(ctx, "go", "build", "-trimpath", "-ldflags",
			"-s -w -X github.com/orrery-dev/orrery/internal/app.released="+l.tag+" -X github.com/orrery-dev/orrery/internal/app.revision="+l.commit,
			"-o", filepath.Join(l.dir, t.file()), "./cmd/orrery")
		cmd.Env = append(cmd.Env, "GOOS="+t.os, "GOARCH="+t.arch, "CGO_ENABLED=0")
		cmd.Stdout, cmd.Stderr = l.Out, l.Out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("compile for %s/%s: %w", t.os, t.arch, err)
		}
		sum, err := fileSum(filepath.Join(l.dir, t.file()))
		if err != nil {
			return err
		}
		l.say("%s  %s", sum, t.file())
	}
	return nil
}

// orrery runs the command line of the release, for this machine.
func (l *release) orrery(ctx context.Context, stdout io.Writer, args ...string) error {
	program := filepath.Join(l.dir, target{runtime.GOOS, runtime.GOARCH}.file())
	if _, err := os.Stat(program); err != nil {
		return fmt.Errorf("orrery ci run release-binaries comes before: %w", err)
	}
	cmd := l.command(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = stdout, l.Out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("orrery %s: %w", strings.Join(args[:2], " "), err)
	}
	return nil
}

// settings writes an orrery.yaml that names the registry.
func (l *release) settings() (file string, remove func(), err error) {
	registry := os.Getenv(envRegistry)
	if registry == "" {
		return "", nil, Skip{envRegistry + " names no registry, such as 127.0.0.1:5000/orrery"}
	}
	tmp, err := os.MkdirTemp("", "orrery-release-")
	if err != nil {
		return "", nil, err
	}
	remove = func() { _ = os.RemoveAll(tmp) }
	file = filepath.Join(tmp, "orrery.yaml")
	text := "apiVersion: orrery.dev/v1alpha1\nkind: Environment\nname: release\nimages:\n  registry: " + registry + "\n"
	return file, remove, os.WriteFile(file, []byte(text), 0o600)
}

func (l *release) keyFlag() []string {
	if key := os.Getenv(envKey); key != "" {
		return []string{"--key", key}
	}
	return nil
}

// pushed is what `orrery images push -o json` says of an image.
type pushed struct {
	Image     string `json:"image"`
	Reference string `json:"reference"`
	Error     string `json:"error,omitempty"`
}

// images compiles images and pushes them; what the registry has is not sent again.
func (l *release) images(ctx context.Context) error {
	file, remove, err := l.settings()
	if err != nil {
		return err
	}
	defer remove()
	names := strings.Fields(os.Getenv(envImages))
	if err := l.orrery(ctx, l.Out, append([]string{"images", "build", "-f", file}, names...)...); err != nil {
		return err
	}
	var out bytes.Buffer
	args := append([]string{"images", "push", "-f", file, "-o", "json"}, l.keyFlag()...)
	err = l.orrery(ctx, io.MultiWriter(&out, l.Out), append(args, names...)...)
	if err != nil {
		return err
	}
	var rows []pushed
	if err := json.Unmarshal(out.Bytes(), &rows); err != nil {
		return fmt.Errorf("what orrery images push says: %w", err)
	}
	return l.write(imagesFile, rows)
}

func (l *release) write(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(l.dir, name), append(data, '\n'), 0o644)
}

// pushedImages are those of the release; none when none were pushed.
func pushedImages(dir string) (rows []pushed, err error) {
	data, err := os.ReadFile(filepath.Join(dir, imagesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &rows)
	}
	if err != nil {
		return nil, fmt.Errorf("read the images of the release: %w", err)
	}
	return rows, nil
}

func (l *release) cache(ctx context.Context) error {
	file, remove, err := l.settings()
	if err != nil {
		return err
	}
	defer remove()
	return l.orrery(ctx, l.Out, "cache", "push", "-f", file)
}

func (l *release) bundle(ctx context.Context) error {
	if runtime.GOOS != "linux" {
		return Skip{"bundles are made on Linux"}
	}
	args := append([]string{"bundle", "create", filepath.Join(l.dir, "orrery-linux-"+runtime.GOARCH+".orrery")}, l.keyFlag()...)
	if components := os.Getenv(envComponents); components != "" {
		args = append(args, "--components", components)
	}
	return l.orrery(ctx, l.Out, args...)
}

// checksums writes what `sha256sum -c` reads.
func (l *release) checksums(context.Context) error {
	names, err := assets(l.dir)
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, name := range names {
		if strings.HasPrefix(name, sumsFile) {
			continue
		}
		sum, err := fileSum(filepath.Join(l.dir, name))
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "%s  %s\n", sum, name)
	}
	l.say("%s", strings.TrimSpace(text.String()))
	return os.WriteFile(filepath.Join(l.dir, sumsFile), []byte(text.String()), 0o644)
}

// assets are the names of files in dir, sorted.
func assets(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func fileSum(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("hash %s: %w", file, err)
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// checkSums holds a folder to its SHA256SUMS: nothing else, and nothing less.
func checkSums(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, sumsFile))
	if err != nil {
		return fmt.Errorf("the list of what was released: %w", err)
	}
	names, err := assets(dir)
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return strings.HasPrefix(name, sumsFile) })
	var bad []string
	for line := range strings.Lines(string(data)) {
		want, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if !ok || name != filepath.Base(name) {
			return fmt.Errorf("%s: %q is no line of sha256sum", sumsFile, line)
		}
		have, err := fileSum(filepath.Join(dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			bad = append(bad, name+" is not there")
		case err != nil:
			return err
		case have != want:
			bad = append(bad, fmt.Sprintf("%s is sha256:%s, the list says %s", name, have, want))
		}
		names = slices.DeleteFunc(names, func(n string) bool { return n == name })
	}
	for _, name := range names {
		bad = append(bad, name+" is in no list")
	}
	return refuse(bad)
}

// oidc says whether this run can prove to Sigstore what it is.
func oidc() bool {
	return os.Getenv("ACTIONS_ID_TOKEN_REQUEST_URL") != "" || os.Getenv("SIGSTORE_ID_TOKEN") != ""
}

const noSigner = "no OIDC token (GitHub gives one where id-token: write is granted; a fork's pull request has none)," +
	" and " + envKey + " names no key"

// cosign is the program, when it is on PATH or compiled already.
func (r *Runner) cosign(ctx context.Context) (string, error) {
	if file, err := exec.LookPath("cosign"); err == nil {
		return file, nil
	}
	return r.tool(ctx, "cosign", false)
}

// runCosign runs it with the password where it looks for it.
func (l *release) runCosign(ctx context.Context, args ...string) error {
	tool, err := l.cosign(ctx)
	if err != nil {
		return err
	}
	cmd := l.command(ctx, tool, args...)
	cmd.Env = append(cmd.Env, "COSIGN_PASSWORD="+os.Getenv("ORRERY_KEY_PASSWORD"))
	cmd.Stdout, cmd.Stderr = l.Out, l.Out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("cosign %s: %w", args[0], err)
	}
	return nil
}

// sign signs the list of checksums, and the images, with the identity of the workflow; with a
// key where there is no such identity. Images have the signature of that key already.
func (l *release) sign(ctx context.Context) error {
	sums := filepath.Join(l.dir, sumsFile)
	if _, err := os.Stat(sums); err != nil {
		return fmt.Errorf("orrery ci run release-checksums comes before: %w", err)
	}
	bundle := sums + sigSuffix
	if !oidc() {
		key := os.Getenv(envKey)
		if key == "" {
			return Skip{noSigner}
		}
		return l.runCosign(ctx, "sign-blob", "--yes", "--key", key, "--tlog-upload=false", "--use-signing-config=false", "--bundle", bundle, sums)
	}
	if err := l.runCosign(ctx, "sign-blob", "--yes", "--bundle", bundle, sums); err != nil {
		return err
	}
	rows, err := pushedImages(l.dir)
	if err != nil {
		return err
	}
	for _, row := range rows {
		if err := l.runCosign(ctx, "sign", "--yes", row.Reference); err != nil {
			return fmt.Errorf("sign %s: %w", row.Image, err)
		}
	}
	return nil
}
