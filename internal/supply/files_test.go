package supply

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/spec"
)

const aCommit = "0123456789abcdef0123456789abcdef01234567"

// takesFile makes a component of the small platform take a file of a public repository.
func (s *small) takesFile(t *testing.T, component, content string) {
	t.Helper()
	sum := sha256.Sum256([]byte(content))
	path := filepath.Join("infra/k8s/base", component, "component.yaml")
	old, err := os.ReadFile(filepath.Join(s.Root, path))
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, path, string(old)+"files:\n  - name: crd.yaml\n    url: https://files.invalid/acme/"+aCommit+"/crd.yaml\n    commit: "+aCommit+
		"\n    sha256: "+hex.EncodeToString(sum[:])+"\n")
}

// anyComponent is one of the small platform.
func (s *small) anyComponent(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.Root, "infra/k8s/base"))
	if err != nil {
		t.Fatal(err)
	}
	return entries[len(entries)-1].Name()
}

// A component whose file cannot be had is left out, one whose file is another is refused, and
// what was fetched once goes into a bundle and out of it.
func TestFiles(t *testing.T) {
	const content = "kind: Anything\n"
	served := http.NewServeMux()
	answer := "kind: Something else\n"
	served.HandleFunc("/files.invalid/acme/"+aCommit+"/crd.yaml", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, answer) })
	server := httptest.NewServer(served)
	defer server.Close()

	small := newSmall(t)
	name := small.anyComponent(t)
	small.takesFile(t, name, content)
	mirrored := func(verify spec.Verification, sources ...string) *Supply {
		return small.open(t, Folder(small.Root), func(o *Options) {
			o.Images = spec.Images{Sources: append(sources, spec.SourceSource), Files: []string{server.URL}, Verify: verify}
		})
	}
	find := func(s *Supply) (plan.Cause, error) {
		lacking, err := s.FindFiles(t.Context(), components(t, s.Catalog), 20*time.Second)
		return lacking[name], err
	}
	if cause, err := find(mirrored(spec.VerifyEnforce)); err != nil || cause.Kind != plan.CauseUnreachable || !strings.HasPrefix(cause.Root, "file https://files.invalid/") ||
		!strings.Contains(cause.Root, "does not name registry") {
		t.Errorf("nothing may be fetched: %+v, %v", cause, err)
	}
	if _, err := find(mirrored(spec.VerifyEnforce, spec.SourceRegistry)); !errors.As(err, new(failure.Refused)) || !strings.Contains(err.Error(), aCommit) {
		t.Errorf("the wrong file: %v", err)
	}
	if cause, err := find(mirrored(spec.VerifyWarn, spec.SourceRegistry)); err != nil || !strings.Contains(cause.Root, "wrong content") || strings.Contains(cause.Root, "\n") {
		t.Errorf("the wrong file, and warn: %+v, %v", cause, err)
	}
	answer = content
	good := mirrored(spec.VerifyEnforce, spec.SourceRegistry)
	if cause, err := find(good); err != nil || !cause.IsZero() {
		t.Fatalf("the right file: %+v, %v", cause, err)
	}
	server.Close()
	files, err := good.Files(t.Context(), good.Catalog.Components[name], time.Second)
	if err != nil || string(files["crd.yaml"]) != content {
		t.Errorf("afterwards: %q, %v", files, err)
	}
	drifted, err := lock.Load(good.LockFile())
	if err != nil {
		t.Fatal(err)
	}
	if drift := lock.CheckFiles(drifted.Files, good.lockedFiles()); len(drift) != 1 || drift[0].Name != name+"/crd.yaml" || !strings.Contains(drift[0].Error(), "orrery lock") {
		t.Errorf("drift: %v", drift)
	}

	contents := bundle.Contents{}
	l := lock.Lock{}
	if err := good.bundledContent(t.Context(), components(t, good.Catalog), &l, &contents); err != nil || len(contents.Extra) != 1 {
		t.Errorf("a bundle takes %d files, %v", len(contents.Extra), err)
	}
	for at, data := range contents.Extra {
		if at != "files/"+good.Catalog.Components[name].Files[0].SHA256 || string(data) != content {
			t.Errorf("a bundle takes %s: %q", at, data)
		}
	}
}

// tagged pushes an index for this machine and another one under a tag.
func tagged(t *testing.T, ref string) string {
	t.Helper()
	img, err := random.Image(1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.Config.Labels = map[string]string{"org.opencontainers.image.source": "https://acme.test/op", "secret": "not kept"}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	own := v1.Platform{OS: "linux", Architecture: strings.TrimPrefix(build.Platform(), "linux/")}
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &own}},
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "riscv64"}}},
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}})
	to, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(to, index); err != nil {
		t.Fatal(err)
	}
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

// An image that is named by tag is not used before its digest is locked, and then that digest is,
// whatever the tag names later.
func TestPin(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	ref := strings.TrimPrefix(server.URL, "http://") + "/acme/operator:v1"
	small := newSmall(t)
	component := small.anyComponent(t)
	path := filepath.Join("infra/k8s/base", component, "component.yaml")
	old, err := os.ReadFile(filepath.Join(small.Root, path))
	if err != nil {
		t.Fatal(err)
	}
	entry := "images:\n  - {name: operator, version: v1, registry: '" + ref + "'}\n"
	text := strings.Replace(string(old), "images:\n", entry, 1)
	if text == string(old) {
		text += entry
	}
	small.write(t, path, text)
	open := func() *Supply {
		return small.open(t, Folder(small.Root), func(o *Options) { o.Images.Sources = spec.Default().Images.Sources })
	}
	s := open()
	img := s.All().Images["operator"]
	if !img.Unpinned() {
		t.Fatalf("%+v", img)
	}
	_, lacking := s.Find(t.Context(), []catalog.Image{img}, time.Second)
	if c := lacking["operator"]; c.Kind != plan.CauseUnpinned || !strings.Contains(c.Root, "orrery lock pin "+component) {
		t.Errorf("before: %+v", c)
	}
	if _, ok, err := s.CachedImage(t.Context(), img); ok || err != nil {
		t.Errorf("before, cached: %v, %v", ok, err)
	}

	day := time.Date(2026, 11, 30, 8, 0, 0, 0, time.UTC)
	pin := func(when time.Time, move bool) ([]Pinned, error) {
		t.Helper()
		s := open()
		l, err := lock.Load(s.LockFile())
		if err != nil {
			t.Fatal(err)
		}
		pins, err := s.Pin(t.Context(), component, &l, when, move)
		if err != nil {
			return nil, err
		}
		data, err := l.Format()
		if err != nil {
			t.Fatal(err)
		}
		small.write(t, lock.FileName, string(data))
		return pins, nil
	}
	if _, err := pin(day, false); !errors.Is(err, image.ErrNotReachable) || !strings.Contains(err.Error(), "404") {
		t.Errorf("a tag that is not there: %v", err)
	}
	first := tagged(t, ref)
	pins, err := pin(day, false)
	if err != nil || len(pins) != 1 {
		t.Fatalf("%v, %v", pins, err)
	}
	got := pins[0].Pin
	if got.Digest != first || got.Seen != "2026-11-30" || strings.Join(got.Platforms, " ") != strings.Join(sorted(build.Platform(), "linux/riscv64"), " ") ||
		got.Bytes < 1000 || len(got.Labels) != 1 {
		t.Errorf("%+v", got)
	}
	if img = open().All().Images["operator"]; img.RegistryDigest() != first || img.Registry != ref+"@"+first {
		t.Errorf("then it is %s", img.Registry)
	}
	if again, err := pin(day.AddDate(0, 1, 0), false); err != nil || again[0].Pin.Seen != "2026-11-30" {
		t.Errorf("again: %+v, %v", again, err)
	}
	second := tagged(t, ref)
	if _, err := pin(day, false); !errors.As(err, new(failure.Refused)) || !strings.Contains(err.Error(), first) || !strings.Contains(err.Error(), second) {
		t.Errorf("moved: %v", err)
	}
	if img = open().All().Images["operator"]; img.RegistryDigest() != first {
		t.Errorf("a moved tag was taken: %s", img.Registry)
	}
	if pins, err = pin(day, true); err != nil || pins[0].Pin.Digest != second || pins[0].Before != first {
		t.Errorf("moved, and meant: %+v, %v", pins, err)
	}
}

func sorted(s ...string) []string { slices.Sort(s); return s }
