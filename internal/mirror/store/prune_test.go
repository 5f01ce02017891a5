package store

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/orrery-dev/orrery/internal/oci"
)

// mirror is a registry's folder, filled as the registry does it.
type mirror struct {
	t   *testing.T
	dir string
	*Store
}

func newMirror(t *testing.T) *mirror {
	t.Helper()
	m := &mirror{t: t, dir: t.TempDir()}
	var err error
	if m.Store, err = Open(m.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func (m *mirror) write(name, text string) {
	m.t.Helper()
	file := filepath.Join(m.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mirror) link(digest v1.Hash, dir ...string) {
	m.write(filepath.Join(append([]string{repositoriesDir}, append(dir, "link")...)...), digest.String())
}

// blob is one that was pushed to a repository and that nothing names yet.
func (m *mirror) blob(repository, text string) v1.Descriptor {
	d := oci.Describe("application/octet-stream", []byte(text))
	m.write(filepath.Join(blobDir(d.Digest.Hex), "data"), text)
	m.link(d.Digest, repository, "_layers", "sha256", d.Digest.Hex)
	return d
}

// manifest pushes one under tags, or by its digest alone.
func (m *mirror) manifest(repository string, manifest any, mediaType types.MediaType, tags ...string) v1.Descriptor {
	m.t.Helper()
	data, err := json.Marshal(manifest)
	if err != nil {
		m.t.Fatal(err)
	}
	d := oci.Describe(mediaType, data)
	m.write(filepath.Join(blobDir(d.Digest.Hex), "data"), string(data))
	m.link(d.Digest, repository, "_manifests", "revisions", "sha256", d.Digest.Hex)
	for _, tag := range tags {
		m.link(d.Digest, repository, "_manifests", "tags", tag, "current")
		m.link(d.Digest, repository, "_manifests", "tags", tag, "index", "sha256", d.Digest.Hex)
	}
	return d
}

// image has a layer of its own, and one that all have.
func (m *mirror) image(repository, content string, tags ...string) v1.Descriptor {
	config := m.blob(repository, `{"config":"`+content+`"}`)
	return m.manifest(repository, oci.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: &config,
		Layers: []v1.Descriptor{m.blob(repository, "base"), m.blob(repository, "layer "+content)}}, types.OCIManifestSchema1, tags...)
}

func (m *mirror) attach(repository string, subject v1.Descriptor, content string) v1.Descriptor {
	empty := m.blob(repository, oci.EmptyContent)
	return m.manifest(repository, oci.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: &empty,
		Layers: []v1.Descriptor{m.blob(repository, content)}, Subject: &subject}, types.OCIManifestSchema1)
}

func (m *mirror) index(repository string, of []v1.Descriptor, tags ...string) v1.Descriptor {
	return m.manifest(repository, oci.Index{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: of}, types.OCIImageIndex, tags...)
}

// later makes all that is there that much older.
func (m *mirror) later(d time.Duration) {
	at := m.now().Add(d)
	m.now = func() time.Time { return at }
}

func (m *mirror) prune(inUse ...string) Pruned {
	m.t.Helper()
	blobs, uploads := m.size()
	would, err := m.Prune(m.t.Context(), inUse, true)
	if err != nil {
		m.t.Fatal(err)
	}
	if b, u := m.size(); b != blobs || u != uploads {
		m.t.Fatal("a dry run removed something")
	}
	did, err := m.Prune(m.t.Context(), inUse, false)
	if err != nil {
		m.t.Fatal(err)
	}
	if fmt.Sprint(would) != fmt.Sprint(did) {
		m.t.Errorf("would: %+v, did: %+v", would, did)
	}
	if b, u := m.size(); blobs-b+uploads-u != did.Bytes || b != did.Left {
		m.t.Errorf("%d bytes were freed and %d are left, it says %d and %d", blobs-b+uploads-u, b, did.Bytes, did.Left)
	}
	if again, err := m.Prune(m.t.Context(), inUse, false); err != nil || again.Blobs+len(again.Manifests) > 0 {
		m.t.Errorf("again: %+v, %v", again, err)
	}
	return did
}

// size of all blobs, and of uploads.
func (m *mirror) size() (blobs, uploads int64) {
	m.t.Helper()
	sum := func(pattern ...string) (n int64) {
		files, err := filepath.Glob(filepath.Join(append([]string{m.dir}, pattern...)...))
		if err != nil {
			m.t.Fatal(err)
		}
		for _, f := range files {
			info, err := os.Stat(f)
			if err != nil {
				m.t.Fatal(err)
			}
			n += info.Size()
		}
		return n
	}
	return sum(blobsDir, "*", "*", "data"), sum(repositoriesDir, "*", "_uploads", "*", "*")
}

// has: a manifest can be pulled with all that it names.
func (m *mirror) has(repository string, d v1.Descriptor) bool {
	m.t.Helper()
	exists := func(name ...string) bool {
		_, err := os.Stat(filepath.Join(append([]string{m.dir}, name...)...))
		return err == nil
	}
	whole := exists(repositoriesDir, repository, "_manifests", "revisions", "sha256", d.Digest.Hex, "link")
	data, err := os.ReadFile(filepath.Join(m.dir, blobDir(d.Digest.Hex), "data"))
	if !whole || err != nil {
		return false
	}
	manifest, err := oci.Parse(data, maxParts)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, b := range manifest.Blobs() {
		if !exists(blobDir(b.Digest.Hex), "data") || !exists(repositoriesDir, repository, "_layers", "sha256", b.Digest.Hex, "link") {
			m.t.Errorf("%s@%s is there without %s", repository, d.Digest, b.Digest)
		}
	}
	return true
}

// want says of each manifest whether it stays.
func (m *mirror) want(stays bool, repository string, all ...v1.Descriptor) {
	m.t.Helper()
	for i, d := range all {
		if m.has(repository, d) != stays {
			m.t.Errorf("%s, number %d: stays is %t, want %t", repository, i, !stays, stays)
		}
	}
}

// What was reported: twenty pushes of one tag, and nothing frees the nineteen.
func TestMovedTagsAreFreedAtOnce(t *testing.T) {
	m := newMirror(t)
	var pushed []v1.Descriptor
	for i := range 20 {
		pushed = append(pushed, m.image("team/app", fmt.Sprint(i), "1"))
	}
	same := m.image("other", "19", "x") // the layers of which are those of the last
	p := m.prune()
	if len(p.Manifests) != 19 || p.Blobs != 19*3 || !slices.Equal(p.Manifests[0].Tags, []string{"1"}) || !strings.HasPrefix(p.Manifests[0].Image, "team/app@sha256:") {
		t.Errorf("%+v", p)
	}
	m.want(false, "team/app", pushed[:19]...)
	m.want(true, "team/app", pushed[19])
	m.want(true, "other", same)
	if left, _ := os.ReadDir(filepath.Join(m.dir, repositoriesDir, "team/app/_manifests/tags/1/index/sha256")); len(left) != 1 {
		t.Errorf("the tag remembers %d digests", len(left))
	}
}

func TestWhatIsInUseStays(t *testing.T) {
	m := newMirror(t)
	byDigest, byConfig, neither := m.image("app", "a", "1"), m.image("app", "b", "1"), m.image("app", "c", "1")
	now := m.image("app", "d", "1")
	elsewhere := m.image("copy", "c", "1") // the same blobs stay in another repository only
	config := oci.Describe("", []byte(`{"config":"b"}`)).Digest.String()
	m.prune(byDigest.Digest.String(), config)
	m.want(true, "app", byDigest, byConfig, now)
	m.want(false, "app", neither)
	m.want(true, "copy", elsewhere)
}

// Signatures and bills of materials go and stay with what they are about, however they are
// attached; so do the platforms of an index.
func TestPartsGoWithTheWhole(t *testing.T) {
	m := newMirror(t)
	signed := func(content string, tags ...string) (image v1.Descriptor, all []v1.Descriptor) {
		arm, amd := m.image("app", content+" arm64"), m.image("app", content+" amd64")
		image = m.index("app", []v1.Descriptor{arm, amd}, tags...)
		signature, sbom := m.attach("app", image, "signature of "+content), m.attach("app", amd, "bill of materials of "+content)
		list := m.index("app", []v1.Descriptor{signature}, oci.ReferrersTag(image.Digest.String()))
		old := m.image("app", "cosign 2, of "+content, oci.ReferrersTag(image.Digest.String())+".sig")
		return image, []v1.Descriptor{arm, amd, image, signature, sbom, list, old}
	}
	_, old := signed("old", "1")
	_, current := signed("new", "1")
	used, inUse := signed("used", "1")
	signed("newest", "1")
	m.index("app", current[:2], "2")
	_, current = signed("new", "1")
	m.prune(used.Digest.String())
	m.want(false, "app", old...)
	m.want(true, "app", inUse...)
	m.want(true, "app", current...)
	if tags, _ := filepath.Glob(filepath.Join(m.dir, repositoriesDir, "app/_manifests/tags/sha256-*")); len(tags) != 4 {
		t.Errorf("the tags of what is attached: %q, want two of each that stays", tags)
	}
}

// A push sends blobs, then the manifests of platforms, then what names them; what is attached may
// come first.
func TestAPushUnderWayIsLeftAlone(t *testing.T) {
	m := newMirror(t)
	moved := m.image("app", "moved", "1")
	m.image("app", "current", "1")
	m.blob("app", "sent")
	m.write(filepath.Join(repositoriesDir, "app", "_uploads", "u", "data"), "half")
	platform := m.image("app", "platform")
	absent := oci.Describe(types.OCIManifestSchema1, []byte("comes last"))
	early := m.index("app", []v1.Descriptor{m.attach("app", absent, "early")}, oci.ReferrersTag(absent.Digest.String()))
	if p := m.prune(); len(p.Manifests) != 1 {
		t.Errorf("%+v", p)
	}
	m.want(false, "app", moved)
	m.want(true, "app", platform, early)
	m.later(2 * grace)
	if p := m.prune(); len(p.Manifests) != 3 { // platform, early and its part
		t.Errorf("an hour later: %+v", p)
	}
	m.want(false, "app", platform, early)
	if uploads, _ := filepath.Glob(filepath.Join(m.dir, repositoriesDir, "app/_uploads/*")); len(uploads) > 0 {
		t.Errorf("%q are left", uploads)
	}
}

// Without knowing what something needs that stays, nothing may go.
func TestNothingGoesWhenSomethingCannotBeRead(t *testing.T) {
	for what, damage := range map[string]func(m *mirror, file string){
		"gone":    func(m *mirror, file string) { os.Remove(filepath.Join(m.dir, file)) },
		"changed": func(m *mirror, file string) { m.write(file, `{"schemaVersion":2,"config":{}}`) },
	} {
		m := newMirror(t)
		moved := m.image("app", "moved", "1")
		tagged := m.image("app", "tagged", "1")
		damage(m, filepath.Join(blobDir(tagged.Digest.Hex), "data"))
		if _, err := m.Prune(t.Context(), nil, false); err == nil || !strings.Contains(err.Error(), "app@"+tagged.Digest.String()) {
			t.Errorf("%s: %v", what, err)
		}
		m.want(true, "app", moved)
		m.image("app", "again", "1") // moves the tag on: nobody asks for the damaged one any more
		m.prune()
		m.want(false, "app", moved)
	}
}

func TestAnEmptyMirror(t *testing.T) {
	if p := newMirror(t).prune(); p.Blobs != 0 {
		t.Errorf("%+v", p)
	}
	if _, err := Open(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("a folder that is not there was opened")
	}
}
