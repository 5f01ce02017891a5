package app

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// saved writes what docker save would of images with these names, each different.
func saved(t *testing.T, file string, names ...string) {
	t.Helper()
	images := map[name.Reference]v1.Image{}
	for _, n := range names {
		img, err := random.Image(1000, 1)
		if err != nil {
			t.Fatal(err)
		}
		c, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		c.OS, c.Architecture = "linux", runtime.GOARCH
		if img, err = mutate.ConfigFile(img, c); err != nil {
			t.Fatal(err)
		}
		tag, err := name.NewTag(n)
		if err != nil {
			t.Fatal(err)
		}
		images[tag] = img
	}
	if err := tarball.MultiRefWriteToFile(file, images); err != nil {
		t.Fatal(err)
	}
}

func TestImagesLoad(t *testing.T) {
	s := newSmall(t)
	s.up()
	saved(t, "one.tar", "lab/one:1")
	saved(t, "again.tar", "lab/one:1")
	saved(t, "both.tar", "lab/two:1", "lab/three:1")
	saved(t, "taken.tar", "shop:v1")
	mirror := s.cluster.Registry()

	out := s.want(exitOK, "images load one.tar", "registry.orrery.internal/lab/one:1@sha256:")
	if _, _, errs := s.run("images", "load", "one.tar"); errs != "" {
		t.Errorf("the same again: %s", errs)
	}
	_, was, _ := strings.Cut(strings.TrimSpace(out), "@")
	s.want(exitOK, "images load again.tar", "warning: lab/one:1 was "+was+" until now")
	s.want(exitOK, "images load both.tar -o json", "/lab/two:1@sha256:", "/lab/three:1@sha256:")
	s.want(exitUsage, "images load both.tar --name lab/x:1", "holds 2 images (", "lab/two:1")
	s.want(exitUsage, "images load taken.tar", `"shop" is an image of the catalogue`)

	s.want(exitOK, "images load one.tar --name "+mirror+"/team/lab:1", "registry.orrery.internal/team/lab:1@")
	s.want(exitOK, "images load one.tar --name registry.orrery.internal/team/lab", "registry.orrery.internal/team/lab:latest@")
	s.want(exitUsage, "images load one.tar --name 127.0.0.1:1/team/lab:1", "127.0.0.1:1 is another registry", "--name team/lab:1")
	s.want(exitUsage, "images load one.tar --name lab@"+was, "a digest follows from the image")
	s.want(exitUsage, "images load one.tar --name Lab:1", "want NAME:TAG, in small letters")

	data, err := os.ReadFile("one.tar")
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if code := Run([]string{"images", "load", "-", "--name", "piped:1"}, bytes.NewReader(data), &stdout, &stderr); code != exitOK || !strings.Contains(stdout.String(), "/piped:1@"+was) {
		t.Errorf("from standard input: %d, %s%s", code, stdout.String(), stderr.String())
	}
	stderr.Reset()
	if code := Run([]string{"images", "load", "-", "--max-size", "100"}, bytes.NewReader(data), &stdout, &stderr); code != exitUsage || !strings.Contains(stderr.String(), "more with --max-size") {
		t.Errorf("too much from standard input: %d, %s", code, stderr.String())
	}
	stderr.Reset()
	if code := Run([]string{"images", "load", "-"}, strings.NewReader("\xfd7zXZ\x00"), &stdout, &stderr); code != exitUsage ||
		!strings.Contains(stderr.String(), "open image standard input: it is compressed with xz") {
		t.Errorf("what is not read, from standard input: %d, %s", code, stderr.String())
	}
}

// Ctrl-C ends a load that waits for somebody to type.
func TestSpoolGivesUp(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	r, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("interrupted"))
	if _, err := spool(ctx, r, 0); err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("error %v", err)
	}
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
