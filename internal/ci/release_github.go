package ci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// onGitHub is a release as GitHub has it.
type onGitHub struct {
	Draft  bool `json:"isDraft"`
	Assets []struct {
		Name   string `json:"name"`
		Digest string `json:"digest"` // "sha256:…"; older versions of gh leave it out
	} `json:"assets"`
}

// publishes says why nothing can be published from here.
func (l *release) publishes() error {
	if l.rehearsal {
		return Skip{"HEAD has no tag: a rehearsal publishes nothing"}
	}
	if _, err := exec.LookPath("gh"); err != nil {
		return Skip{"gh is not on PATH"}
	}
	if os.Getenv("GH_TOKEN") == "" && os.Getenv("GITHUB_TOKEN") == "" {
		return Skip{"neither GH_TOKEN nor GITHUB_TOKEN is set, as in the workflow of a fork"}
	}
	return nil
}

// gh runs GitHub's command line.
func (l *release) gh(ctx context.Context, args ...string) ([]byte, error) {
	cmd := l.command(ctx, "gh", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("gh %s: %w: %s", strings.Join(args[:2], " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// view is the release on GitHub; nil when there is none.
func (l *release) view(ctx context.Context) (*onGitHub, error) {
	out, err := l.gh(ctx, "release", "view", l.tag, "--json", "isDraft,assets")
	if err != nil && strings.Contains(err.Error(), "not found") {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var have onGitHub
	if err := json.Unmarshal(out, &have); err != nil {
		return nil, fmt.Errorf("what gh release view says: %w", err)
	}
	return &have, nil
}

// draft makes a draft, or goes on with one: what it has already is not sent again.
func (l *release) draft(ctx context.Context) error {
	if err := l.publishes(); err != nil {
		return err
	}
	if err := l.attach(); err != nil {
		return err
	}
	if err := checkSums(l.dir); err != nil {
		return fmt.Errorf("what is to be published is not what %s says: %w", sumsFile, err)
	}
	have, err := l.view(ctx)
	if err != nil {
		return err
	}
	if have == nil {
		if err := l.makeDraft(ctx); err != nil {
			return err
		}
		have = &onGitHub{Draft: true}
	}
	names, err := assets(l.dir)
	if err != nil {
		return err
	}
	digests := map[string]string{}
	for _, a := range have.Assets {
		digests[a.Name] = a.Digest
	}
	var missing []string
	for _, name := range names {
		sum, err := fileSum(filepath.Join(l.dir, name))
		if err != nil {
			return err
		}
		// A signature is another one each time.
		if digests[name] != "sha256:"+sum && (have.Draft || !strings.HasSuffix(name, sigSuffix)) {
			missing = append(missing, filepath.Join(l.dir, name))
		}
	}
	if len(missing) == 0 {
		l.say("%s has all %d files", l.tag, len(names))
		return nil
	}
	if !have.Draft {
		return fmt.Errorf("%s is published already, and %s is not as it was made here: a published release does not change; make another version",
			l.tag, filepath.Base(missing[0]))
	}
	l.say("%d of %d files are sent", len(missing), len(names))
	_, err = l.gh(ctx, append([]string{"release", "upload", l.tag, "--clobber"}, missing...)...)
	return err
}

func (l *release) makeDraft(ctx context.Context) error {
	_, notes, err := newest(l.Root)
	if err != nil {
		return err
	}
	file := filepath.Join(l.Root, "dist", l.tag+".notes.md")
	if err := os.WriteFile(file, []byte(notes+"\n"), 0o644); err != nil {
		return err
	}
	args := []string{"release", "create", l.tag, "--draft", "--verify-tag", "--title", l.tag, "--notes-file", file}
	if strings.Contains(l.tag, "-") {
		args = append(args, "--prerelease")
	}
	_, err = l.gh(ctx, args...)
	return err
}

// marker is written when everything was verified, and names what.
func (l *release) marker() string { return filepath.Join(l.Root, "dist", l.tag+".verified") }

// verify reads back what was published, into an empty folder, and checks all of it. Of a
// rehearsal it checks what is here.
func (l *release) verify(ctx context.Context) error {
	if err := os.RemoveAll(l.marker()); err != nil {
		return err
	}
	dir := l.dir
	err := l.publishes()
	if err == nil {
		if dir, err = os.MkdirTemp("", "orrery-published-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if _, err := l.gh(ctx, "release", "download", l.tag, "--dir", dir); err != nil {
			return err
		}
	} else if !l.rehearsal {
		return err
	}
	var skipped []error
	for _, check := range []func(context.Context, string) error{
		l.verifySums, l.verifySBOMs, l.verifySignature, l.verifyProvenance, l.verifyImages,
	} {
		err := check(ctx, dir)
		if _, ok := errors.AsType[Skip](err); ok {
			skipped = append(skipped, err)
			continue
		}
		if err != nil {
			return err
		}
	}
	if len(skipped) > 0 {
		why := strings.ReplaceAll(errors.Join(skipped...).Error(), "skipped: ", "")
		if !l.rehearsal {
			return fmt.Errorf("a release stays a draft until all of it is verified: %s", why)
		}
		return Skip{"the rest is verified: " + strings.ReplaceAll(why, "\n", "; ")}
	}
	sum, err := fileSum(filepath.Join(dir, sumsFile))
	if err != nil {
		return err
	}
	return os.WriteFile(l.marker(), []byte(sum+"\n"), 0o644)
}

func (l *release) verifySums(_ context.Context, dir string) error {
	if err := checkSums(dir); err != nil {
		return err
	}
	l.say("all files are as %s says", sumsFile)
	return nil
}

// identity is what a keyless signature of a release is made by.
func (l *release) identity() []string {
	return []string{
		"--certificate-identity", "https://github.com/" + os.Getenv("GITHUB_REPOSITORY") + "/" + releaseWorkflow + "@refs/tags/" + l.tag,
		"--certificate-oidc-issuer", "https://token.actions.githubusercontent.com",
	}
}

// believed are the flags with which cosign checks a signature of this release.
func (l *release) believed() ([]string, error) {
	if oidc() {
		return l.identity(), nil
	}
	key := os.Getenv(envKey)
	if key == "" {
		return nil, Skip{noSigner}
	}
	return []string{"--key", strings.TrimSuffix(key, ".key") + ".pub", "--insecure-ignore-tlog"}, nil
}

func (l *release) verifySignature(ctx context.Context, dir string) error {
	flags, err := l.believed()
	if err != nil {
		return err
	}
	sums := filepath.Join(dir, sumsFile)
	if _, err := os.Stat(sums + sigSuffix); err != nil {
		return fmt.Errorf("%s is not signed: orrery ci run release-sign", sumsFile)
	}
	return l.runCosign(ctx, append(append([]string{"verify-blob", "--bundle", sums + sigSuffix}, flags...), sums)...)
}

// verifyImages has cosign look at every image in the registry.
func (l *release) verifyImages(ctx context.Context, dir string) error {
	rows, err := pushedImages(dir)
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		return Skip{"no images were pushed"}
	}
	flags, err := l.believed()
	if err != nil {
		return err
	}
	for _, row := range rows {
		if strings.HasPrefix(row.Reference, "127.") || strings.HasPrefix(row.Reference, "localhost") {
			flags = append(flags, "--allow-http-registry")
		}
		if err := l.runCosign(ctx, append(append([]string{"verify"}, flags...), row.Reference)...); err != nil {
			return fmt.Errorf("image %s is not signed by who released it: %w", row.Image, err)
		}
	}
	return nil
}

// undraft takes the draft flag away, when what is published is what was verified.
func (l *release) undraft(ctx context.Context) error {
	if err := l.publishes(); err != nil {
		return err
	}
	verified, err := os.ReadFile(l.marker())
	if err != nil {
		return fmt.Errorf("%s was not verified: orrery ci run release-verify", l.tag)
	}
	have, err := l.view(ctx)
	if err != nil {
		return err
	}
	if have == nil {
		return fmt.Errorf("there is no release %s on GitHub: orrery ci run release-draft", l.tag)
	}
	if !have.Draft {
		l.say("%s is published already", l.tag)
		return nil
	}
	for _, a := range have.Assets {
		if a.Name == sumsFile && a.Digest != "" && a.Digest != "sha256:"+strings.TrimSpace(string(verified)) {
			return fmt.Errorf("%s of %s was changed since it was verified: orrery ci run release-verify", sumsFile, l.tag)
		}
	}
	_, err = l.gh(ctx, "release", "edit", l.tag, "--draft=false")
	return err
}
