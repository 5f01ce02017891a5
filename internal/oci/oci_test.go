package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

var blob = `{"mediaType":"application/octet-stream","size":3,"digest":"sha256:` + strings.Repeat("ab", 32) + `"}`

func TestParse(t *testing.T) {
	docker := `{"mediaType":"` + string(types.DockerManifestSchema2) + `","config":` + blob + `}`
	layers := func(n int) string {
		return `{"config":` + blob + `,"layers":[` + strings.Repeat(blob+",", n-1) + blob + `]}`
	}
	for name, tc := range map[string]struct {
		data string
		kind types.MediaType // empty: it is refused
		says string
	}{
		"manifest":                 {data: `{"config":` + blob + `,"layers":[` + blob + `]}`, kind: types.OCIManifestSchema1},
		"docker's":                 {data: docker, kind: types.DockerManifestSchema2},
		"index":                    {data: `{"manifests":[` + blob + `]}`, kind: types.OCIImageIndex},
		"empty index":              {data: `{"mediaType":"` + string(types.OCIImageIndex) + `"}`, kind: types.OCIImageIndex},
		"no JSON":                  {data: `<html>`, says: "not JSON"},
		"two documents":            {data: `{"manifests":[` + blob + `]}{}`, says: "not JSON"},
		"neither":                  {data: `{}`, says: "neither"},
		"negative size":            {data: strings.Replace(`{"config":`+blob+`}`, "3", "-3", 1), says: "bytes"},
		"huge blob":                {data: strings.Replace(`{"config":`+blob+`}`, "3", "99999999999999", 1), says: "bytes"},
		"short digest":             {data: strings.Replace(`{"config":`+blob+`}`, "abab", "", 1), says: "hex digits"},
		"path as digest":           {data: `{"config":{"size":1,"digest":"../../etc:passwd"}}`, says: "not JSON"},
		"another algorithm":        {data: `{"config":{"size":1,"digest":"sha512:` + strings.Repeat("ab", 64) + `"}}`, says: "sha512"},
		"no digest":                {data: `{"config":{"size":1}}`, says: "1 bytes"},
		"subject with a negative":  {data: `{"config":` + blob + `,"subject":{"size":-1}}`, says: "bytes"},
		"more parts than allowed":  {data: layers(5), says: "6 parts, more than 5"},
		"more bytes than allowed":  {data: `{"manifests":[` + blob + `]}` + strings.Repeat(" ", MaxManifest), says: "more than"},
		"as many parts as allowed": {data: layers(4), kind: types.OCIManifestSchema1},
	} {
		m, err := Parse([]byte(tc.data), 5)
		switch {
		case tc.kind != "" && (err != nil || m.Type() != tc.kind):
			t.Errorf("%s: %q, %v; want %q", name, m.Type(), err, tc.kind)
		case tc.kind == "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tc.says)):
			t.Errorf("%s: %v, want %q", name, err, tc.says)
		}
	}
}

// What bundles and signatures consist of is a contract: the order of fields decides digests.
func TestWritten(t *testing.T) {
	layer := Describe("text/plain", []byte("abc"))
	m := Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: "a", Config: Empty(), Layers: []v1.Descriptor{layer},
		Subject: &layer, Annotations: map[string]string{Title: "t"},
	}
	abc := `{"mediaType":"text/plain","size":3,"digest":"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}`
	empty := `{"mediaType":"application/vnd.oci.empty.v1+json","size":2,` +
		`"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}`
	for want, value := range map[string]any{
		`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"a","config":` + empty +
			`,"layers":[` + abc + `],"subject":` + abc + `,"annotations":{"org.opencontainers.image.title":"t"}}`: m,
		`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","artifactType":"a","manifests":[` + abc +
			`],"annotations":{"k":"v"}}`: Index{
			SchemaVersion: 2, MediaType: types.OCIImageIndex, ArtifactType: "a", Manifests: []v1.Descriptor{layer}, Annotations: map[string]string{"k": "v"},
		},
	} {
		if data, err := json.Marshal(value); err != nil || string(data) != want {
			t.Errorf("written\n%s, %v; want\n%s", data, err, want)
		}
	}
	if m.Kind() != "a" || (Manifest{Config: Empty()}).Kind() != string(types.OCIEmptyJSON) || (Manifest{}).Kind() != "" {
		t.Error("an artifact is called by its type, or by that of its configuration")
	}
}

func TestChoose(t *testing.T) {
	at := func(platform string, mediaType types.MediaType) v1.Descriptor {
		d := Describe(mediaType, []byte(platform))
		if os_, arch, ok := strings.Cut(platform, "/"); ok {
			d.Platform = &v1.Platform{OS: os_, Architecture: arch}
		}
		return d
	}
	m := Manifest{Manifests: []v1.Descriptor{
		at("", types.OCIManifestSchema1), at("unknown/unknown", types.OCIManifestSchema1),
		at("linux/arm64", types.OCIImageIndex), at("linux/arm64", types.OCIManifestSchema1), at("windows/amd64", types.OCIManifestSchema1),
	}}
	if d, err := m.Choose("linux/arm64"); err != nil || d.MediaType != types.OCIManifestSchema1 || d.Platform.Architecture != "arm64" {
		t.Errorf("chose %+v, %v", d, err)
	}
	const says = "linux/amd64, only for unknown/unknown, linux/arm64, linux/arm64, windows/amd64"
	if _, err := m.Choose("linux/amd64"); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("nothing for it: %v", err)
	}
	if !Suits(m.Manifests[0], "linux/amd64") || Suits(m.Manifests[4], "linux/amd64") || !Suits(m.Manifests[4], "windows/amd64") {
		t.Error("what says no platform suits all, other things only theirs")
	}
}

func TestReferrers(t *testing.T) {
	const digest = "sha256:00"
	good := `{"manifests":[` + blob + `]}`
	many := `{"manifests":[` + strings.Repeat(blob+",", MaxReferrers) + blob + `]}`
	for name, tc := range map[string]struct {
		api, tag string // what the registry has; empty: nothing
		broken   error
		found    int
		byTag    bool
		kind     error
	}{
		"API":                  {api: good, tag: "x", found: 1},
		"tag":                  {tag: good, found: 1, byTag: true},
		"none":                 {byTag: true},
		"an empty list":        {api: `{"manifests":[]}`},
		"no JSON":              {api: "<html>", kind: ErrInvalid},
		"no JSON under a tag":  {tag: "[]", kind: ErrInvalid, byTag: true},
		"junk beside":          {api: `{"manifests":[1,{"digest":"../x"},{"size":1},` + blob + `]}`, found: 1},
		"many":                 {tag: many, found: MaxReferrers + 1, byTag: true},
		"registry in trouble":  {broken: fs.ErrPermission, kind: fs.ErrPermission},
		"wrapped by the error": {byTag: true, broken: fmt.Errorf("404: %w", ErrNotFound)},
	} {
		list, byTag, err := Referrers(t.Context(), digest, func(_ context.Context, path string) ([]byte, error) {
			answer := map[string]string{"referrers/sha256:00": tc.api, "manifests/sha256-00": tc.tag}[path]
			switch {
			case tc.broken != nil:
				return nil, tc.broken
			case answer == "":
				return nil, ErrNotFound
			}
			return []byte(answer), nil
		})
		if len(list) != tc.found || byTag != tc.byTag || !errors.Is(err, tc.kind) {
			t.Errorf("%s: %d, %v, %v; want %d, %v, %v", name, len(list), byTag, err, tc.found, tc.byTag, tc.kind)
		}
	}
}

func TestLayout(t *testing.T) {
	l := Layout(t.TempDir())
	if _, err := l.Index(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the index of an empty folder: %v", err)
	}
	put := func(path, data string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d := Digest([]byte("m"))
	if want := filepath.Join(string(l), BlobFolder, d.Hex); l.Blob(d) != want {
		t.Errorf("blob at %s, want %s", l.Blob(d), want)
	}
	put(filepath.Join(string(l), IndexFile), `{"manifests":[`+blob+`]}`)
	if i, err := l.Index(); err != nil || len(i.Manifests) != 1 {
		t.Errorf("index %+v, %v", i, err)
	}
	put(filepath.Join(string(l), IndexFile), `{"manifests":1}`)
	if _, err := l.Index(); !errors.Is(err, ErrInvalid) {
		t.Errorf("a broken index: %v", err)
	}
	if _, _, err := l.Manifest(d, MaxLayers); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a manifest that is not there: %v", err)
	}
	put(l.Blob(d), `{"config":`+blob+`}`)
	if m, raw, err := l.Manifest(d, MaxLayers); err != nil || m.Config.Size != 3 || len(raw) == 0 {
		t.Errorf("manifest %+v, %v", m, err)
	}
	put(l.Blob(d), strings.Repeat(" ", MaxManifest+1))
	if _, _, err := l.Manifest(d, MaxLayers); !errors.Is(err, ErrInvalid) {
		t.Errorf("an endless manifest: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	img, err := random.Image(10, 1)
	if err != nil {
		f.Fatal(err)
	}
	raw, err := img.RawManifest()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"manifests":[{"digest":"sha256:x","platform":{}}]}`))
	f.Add([]byte(`{"config":{"size":-1}}`))
	f.Add([]byte(`{"manifests":[` + blob + `,{"platform":{"os":"linux","architecture":"amd64"}}]}`))
	f.Add(bytes.Repeat([]byte("["), 1000))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse(data, MaxLayers)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("an error of no kind: %v", err)
			}
			return
		}
		for _, d := range append(m.Blobs(), m.Manifests...) {
			if d.Size < 0 || len(d.Digest.Hex) != 64 || !filepath.IsLocal(Layout("").Blob(d.Digest)) {
				t.Errorf("accepted %+v", d)
			}
		}
		if d, err := m.Choose("linux/amd64"); err == nil && !Suits(d, "linux/amd64") {
			t.Errorf("chose %+v", d)
		}
		_, _ = m.Type(), m.Kind()
	})
}

func FuzzReferrers(f *testing.F) {
	f.Add([]byte(`{"manifests":[` + blob + `]}`))
	f.Add([]byte(`{"manifests":[1,null,{"digest":"sha256:x"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := parseReferrers(data)
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("an error of no kind: %v", err)
		}
		for _, d := range list {
			if len(d.Digest.Hex) != 64 {
				t.Errorf("accepted %+v", d)
			}
		}
	})
}
