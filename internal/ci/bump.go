package ci

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/failure"
)

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Bump moves an image to a digest wherever an overlay, or a component, names it by one: entries
// of kustomization.yaml, and references IMAGE[:TAG]@DIGEST. It returns the files that it changed;
// the error is usage when nothing names the image. Comments and order stay.
func Bump(root, image, digest string) (changed []string, err error) {
	if !digestForm.MatchString(digest) {
		return nil, failure.Usagef("%q is no digest: want sha256: and 64 hexadecimal digits", digest)
	}
	// What comes before an image's name cannot be in one.
	reference, err := regexp.Compile(`(^|[\s"'=])(` + regexp.QuoteMeta(image) + `(?::[\w][\w.-]*)?)@sha256:[0-9a-f]{64}`)
	if err != nil {
		return nil, err
	}
	named := false
	at := filepath.Join(root, "infra", "k8s")
	err = filepath.WalkDir(at, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".yaml" {
			return err
		}
		before, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		after := reference.ReplaceAllString(string(before), "${1}${2}@"+digest)
		here := reference.Match(before)
		if d.Name() == "kustomization.yaml" {
			text, found, err := bumpKustomization(after, image, digest)
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			after, here = text, here || found
		}
		named = named || here
		if after == string(before) {
			return nil
		}
		rel, _ := filepath.Rel(root, path)
		changed = append(changed, rel)
		return atomicfile.Write(path, []byte(after), 0o644)
	})
	if err != nil {
		return changed, fmt.Errorf("move %s: %w", image, err)
	}
	if !named {
		return nil, failure.Usagef("nothing under infra/k8s names the image %q by digest", image)
	}
	return changed, nil
}

// bumpKustomization changes the digest of entries of images, and no other byte.
func bumpKustomization(text, image, digest string) (string, bool, error) {
	var doc struct {
		Images []struct {
			Name    string    `yaml:"name"`
			NewName string    `yaml:"newName"`
			Digest  yaml.Node `yaml:"digest"`
		} `yaml:"images"`
	}
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		return text, false, err
	}
	lines := strings.Split(text, "\n")
	found := false
	for _, i := range doc.Images {
		if i.Name != image && i.NewName != image {
			continue
		}
		if i.Digest.IsZero() {
			return text, false, fmt.Errorf("image %s has no digest: give it one", image)
		}
		found = true
		l := i.Digest.Line - 1
		lines[l] = strings.Replace(lines[l], i.Digest.Value, digest, 1)
	}
	return strings.Join(lines, "\n"), found, nil
}

// bump moves every image of the release.
func (l *release) bump(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(l.dir, imagesFile)); err != nil && l.publishes() == nil { // made on another machine
		if _, err := l.gh(ctx, "release", "download", l.tag, "--dir", l.dir, "--pattern", imagesFile, "--clobber"); err != nil {
			return err
		}
	}
	rows, err := pushedImages(l.dir)
	if err != nil {
		return err
	}
	var moved []string
	for _, row := range rows {
		name, digest, ok := strings.Cut(row.Reference, "@")
		if !ok {
			return fmt.Errorf("image %s was pushed as %q, which has no digest", row.Image, row.Reference)
		}
		files, err := Bump(l.Root, name, digest)
		if failure.IsUsage(err) {
			continue // the lock alone has its digest
		}
		if err != nil {
			return err
		}
		moved = append(moved, files...)
	}
	if len(moved) == 0 {
		return Skip{"no overlay names an image of this release by a digest other than the lock's"}
	}
	slices.Sort(moved)
	l.say("changed: %s", strings.Join(slices.Compact(moved), " "))
	return nil
}
