package sign

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/oci"
)

func TestAttachAndVerify(t *testing.T) {
	for name, api := range map[string]bool{"referrers API": true, "referrers by tag": false} {
		t.Run(name, func(t *testing.T) {
			m := newMirror(t, api)
			p := publish(t, m.address)
			k := anyKey(t)
			p.attach(t, k)
			policy := p.policy(k)
			policy.Thorough = true
			r, err := Verify(t.Context(), p.mirror(), imageName, p.digest, policy)
			if err != nil {
				t.Fatal(err)
			}
			if !r.OK() || len(r.Checks) != 5 || r.Signer != k.Public().Fingerprint() {
				t.Errorf("%+v", r)
			}
			n := m.writes.Load()
			p.attach(t, k)
			if more := m.writes.Load() - n; more > 0 {
				t.Errorf("attached twice: %d writes more", more)
			}
		})
	}
}

func (p published) attach(t testing.TB, k *Key) {
	t.Helper()
	if err := Attach(t.Context(), p.mirror(), imageName, p.digest, k, p.docs); err != nil {
		t.Fatal(err)
	}
}

// instead answers GET requests of paths that end like this with other bytes.
func instead(suffix string, with func() []byte) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, suffix) {
			return false
		}
		w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
		_, _ = w.Write(with())
		return true
	}
}

// refusal is an image with something wrong, and what has to be said about it.
type refusal struct {
	name  string
	spoil func(t *testing.T, m *interfered, p *published, k *Key, policy *Policy)
	check string
	kind  error
	says  string
}

var refusals = []refusal{
	{"unsigned", func(*testing.T, *interfered, *published, *Key, *Policy) {}, CheckSignature, ErrUnsigned, "no signature is attached"},
	{"wrong key", func(t *testing.T, _ *interfered, p *published, _ *Key, _ *Policy) {
		other := anyKey(t)
		p.attach(t, other)
	}, CheckSignature, ErrWrongKey, "not trusted"},
	{"no key is trusted", func(t *testing.T, _ *interfered, p *published, k *Key, policy *Policy) {
		p.attach(t, k)
		policy.Keys = nil
	}, CheckSignature, ErrWrongKey, "not trusted"},
	{"another key under the name of ours", func(t *testing.T, _ *interfered, p *published, k *Key, _ *Policy) {
		other := anyKey(t)
		p.attach(t, &Key{public: k.public, open: other.open})
	}, CheckSignature, ErrTampered, "which did not"},
	{"tampered layer", func(t *testing.T, m *interfered, p *published, k *Key, policy *Policy) {
		p.attach(t, k)
		policy.Thorough = true
		manifest, err := p.image.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		m.lie = instead(manifest.Layers[1].Digest.String(), func() []byte { return []byte("other bytes") })
	}, CheckContent, ErrTampered, "has the bytes of"},
	{"tampered bundle", func(t *testing.T, m *interfered, p *published, k *Key, _ *Policy) {
		p.attach(t, k)
		m.lie = p.flipBundles(t)
	}, CheckSignature, ErrTampered, "has the bytes of"},
	{"swapped manifest", func(t *testing.T, m *interfered, p *published, k *Key, _ *Policy) {
		p.attach(t, k)
		other := publish(t, newMirror(t, false).address)
		m.lie = instead("/manifests/"+p.digest, func() []byte { raw, _ := other.image.RawManifest(); return raw })
	}, CheckContent, ErrSwapped, "another manifest"},
	{"swapped tag", func(t *testing.T, _ *interfered, p *published, k *Key, policy *Policy) {
		p.attach(t, k)
		policy.Thorough = true
		other, err := random.Image(10, 1)
		if err != nil {
			t.Fatal(err)
		}
		tag, _ := name.NewTag(p.address+"/"+imageName+":"+imageVersion, name.Insecure)
		if err := remote.Write(tag, other); err != nil {
			t.Fatal(err)
		}
	}, CheckLock, ErrSwapped, "the tag v1.2.3"},
	{"image gone", func(t *testing.T, _ *interfered, p *published, k *Key, _ *Policy) {
		p.digest = "sha256:" + strings.Repeat("0", 64)
	}, CheckContent, nil, "does not have it"},
	{"signature of another image", func(t *testing.T, _ *interfered, p *published, k *Key, _ *Policy) {
		statement, err := makeStatement("sha256:"+strings.Repeat("0", 64), SignaturePredicate, []byte("{}"))
		if err != nil {
			t.Fatal(err)
		}
		p.attachRaw(t, k, SignaturePredicate, statement)
	}, CheckSignature, ErrSwapped, "of another image"},
	{"no provenance", func(t *testing.T, _ *interfered, p *published, k *Key, _ *Policy) {
		p.docs.Provenance = nil
		p.attach(t, k)
	}, CheckProvenance, ErrProvenance, "none is attached"},
	{"provenance by a key that is not trusted", func(t *testing.T, _ *interfered, p *published, k *Key, _ *Policy) {
		provenance := p.docs.Provenance
		p.docs.Provenance = nil
		p.attach(t, k)
		other := anyKey(t)
		p.attachRaw(t, other, ProvenancePredicate, provenance)
	}, CheckProvenance, ErrWrongKey, "not trusted"},
	{"provenance for another digest", func(t *testing.T, _ *interfered, p *published, k *Key, _ *Policy) {
		p.withProvenance(t, k, strings.TrimPrefix(p.digest, "sha256:"), strings.Repeat("0", 64))
	}, CheckProvenance, ErrProvenance, "about another digest"},
	{"provenance of another builder", func(t *testing.T, _ *interfered, p *published, k *Key, _ *Policy) {
		p.withProvenance(t, k, "https://orrery.dev/builder/local", "https://example.org/builder")
	}, CheckProvenance, ErrProvenance, `built by "https://example.org/builder"`},
	{"provenance of another build type", func(t *testing.T, _ *interfered, p *published, k *Key, _ *Policy) {
		p.withProvenance(t, k, "build-type/image/v1", "build-type/image/v0")
	}, CheckProvenance, ErrProvenance, "the build type is"},
	{"provenance of another image", func(t *testing.T, _ *interfered, p *published, k *Key, _ *Policy) {
		p.withProvenance(t, k, `"image": "hello"`, `"image": "goodbye"`)
	}, CheckProvenance, ErrProvenance, `of the image "goodbye"`},
	{"provenance from another module", func(t *testing.T, _ *interfered, p *published, k *Key, _ *Policy) {
		p.withProvenance(t, k, `"module": "example.org/hello@v1.2.3"`, `"module": "example.org/hell@v1.2.3"`)
	}, CheckProvenance, ErrProvenance, "hello.module is example.org/hell@v1.2.3, locked is example.org/hello@v1.2.3"},
	{"provenance with another hash of the module", func(t *testing.T, _ *interfered, p *published, k *Key, policy *Policy) {
		p.attach(t, k)
		b := policy.Locked.Binaries["hello"]
		b.Sum = "h1:" + strings.Repeat("A", 43) + "="
		policy.Locked.Binaries["hello"] = b
	}, CheckProvenance, ErrProvenance, "hello.sum"},
	{"provenance from another source tree", func(t *testing.T, _ *interfered, p *published, k *Key, _ *Policy) {
		p.withProvenance(t, k, strings.Repeat("d", 64), strings.Repeat("f", 64))
	}, CheckProvenance, ErrProvenance, "hello.tree is sha256:ffff"},
	{"provenance by another Go", func(t *testing.T, _ *interfered, p *published, k *Key, policy *Policy) {
		p.attach(t, k)
		b := policy.Locked.Binaries["hello"]
		b.Go = "go1.99.0"
		policy.Locked.Binaries["hello"] = b
	}, CheckProvenance, ErrProvenance, "hello.go is go1.26.8, locked is go1.99.0"},
	{"no bill of materials", func(t *testing.T, _ *interfered, p *published, k *Key, _ *Policy) {
		p.docs.SBOM = nil
		p.attach(t, k)
	}, CheckSBOM, ErrSBOM, "none is attached"},
	{"bill of materials of another image", func(t *testing.T, _ *interfered, p *published, k *Key, _ *Policy) {
		p.docs.SBOM = bytes.ReplaceAll(p.docs.SBOM, []byte(strings.TrimPrefix(p.digest, "sha256:")), []byte(strings.Repeat("0", 64)))
		p.attach(t, k)
	}, CheckSBOM, ErrSBOM, "it describes sha256:0000"},
	{"bill of materials that is not locked", func(t *testing.T, _ *interfered, p *published, k *Key, _ *Policy) {
		p.docs.SBOM = bytes.Replace(p.docs.SBOM, []byte("MIT"), []byte("ISC"), 1)
		p.attach(t, k)
	}, CheckSBOM, ErrSBOM, "its digest is"},
	{"another digest is locked", func(t *testing.T, _ *interfered, p *published, k *Key, policy *Policy) {
		p.attach(t, k)
		i := policy.Locked.Images[imageName]
		i.Digest = "sha256:" + strings.Repeat("0", 64)
		policy.Locked.Images[imageName] = i
	}, CheckLock, ErrNotLocked, "locked is sha256:0000"},
	{"not in the lock", func(t *testing.T, _ *interfered, p *published, k *Key, policy *Policy) {
		p.attach(t, k)
		policy.Locked = &lock.Platform{}
	}, CheckLock, ErrNotLocked, "does not have it"},
	{"more bundles than are read", func(t *testing.T, m *interfered, p *published, k *Key, _ *Policy) {
		p.attach(t, k)
		data := p.listed(t, junk(bundleType, maxBundles), nil)
		m.lie = instead("/manifests/"+oci.ReferrersTag(p.digest), func() []byte { return data })
	}, CheckSignature, nil, "more than 64 bundles"},
	{"referrers that are no JSON", func(t *testing.T, m *interfered, p *published, k *Key, _ *Policy) {
		p.attach(t, k)
		m.lie = instead("/manifests/"+oci.ReferrersTag(p.digest), func() []byte { return []byte("<html>") })
	}, CheckSignature, ErrTampered, "no index"},
	{"no registry", func(_ *testing.T, m *interfered, p *published, _ *Key, _ *Policy) {
		p.address = "127.0.0.1:1"
	}, CheckContent, nil, "connection refused"},
}

// withProvenance attaches everything, with something replaced in the provenance.
func (p *published) withProvenance(t *testing.T, k *Key, old, text string) {
	t.Helper()
	changed := bytes.ReplaceAll(p.docs.Provenance, []byte(old), []byte(text))
	if bytes.Equal(changed, p.docs.Provenance) {
		t.Fatalf("the provenance has no %q", old)
	}
	p.docs.Provenance = nil
	p.attach(t, k)
	p.attachRaw(t, k, ProvenancePredicate, changed)
}

// flipBundles damages every bundle that is attached, on its way out of the registry.
func (p *published) flipBundles(t *testing.T) func(http.ResponseWriter, *http.Request) bool {
	t.Helper()
	r := p.repository(t)
	list, _, err := r.referrers(t.Context(), p.digest)
	if err != nil {
		t.Fatal(err)
	}
	bundles := map[string][]byte{}
	for _, d := range list {
		raw, err := r.manifest(t.Context(), d.Digest.String())
		if err != nil {
			t.Fatal(err)
		}
		m, err := oci.Parse(raw, oci.MaxLayers)
		if err != nil {
			t.Fatal(err)
		}
		b, err := r.blob(t.Context(), m.Layers[0].Digest.String())
		if err != nil {
			t.Fatal(err)
		}
		bundles[m.Layers[0].Digest.String()] = bytes.Replace(b, []byte(`"sig":"M`), []byte(`"sig":"N`), 1)
	}
	return func(w http.ResponseWriter, r *http.Request) bool {
		for digest, data := range bundles {
			if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, digest) {
				_, _ = w.Write(data)
				return true
			}
		}
		return false
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			m := newMirror(t, false)
			p := publish(t, m.address)
			k := anyKey(t)
			policy := p.policy(k)
			c.spoil(t, m, &p, k, &policy)
			r, err := Verify(t.Context(), p.mirror(), imageName, p.digest, policy)
			if err == nil || r.OK() {
				t.Fatalf("accepted: %+v", r)
			}
			var found *CheckError
			for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
				if ce, ok := errors.AsType[*CheckError](e); ok && ce.Check == c.check && found == nil {
					found = ce
				}
			}
			if found == nil {
				t.Fatalf("check %s passed: %v", c.check, err)
			}
			text := found.Error()
			if c.kind != nil && !errors.Is(found, c.kind) || !strings.Contains(text, c.says) || found.Advice == "" {
				t.Errorf("got %q, want %q of the kind %v, and an advice", text, c.says, c.kind)
			}
			if !strings.Contains(text, imageName+"@"+p.digest) || !strings.Contains(text, c.check) {
				t.Errorf("%q names neither image nor check", text)
			}
		})
	}
}

// TestJunkBesideIsHarmless: what others attach cannot take an image's good name away.
func TestJunkBesideIsHarmless(t *testing.T) {
	p := publish(t, newMirror(t, false).address)
	k := anyKey(t)
	other := anyKey(t)
	p.attach(t, k)
	p.attachRaw(t, other, SignaturePredicate, []byte("no statement"))
	p.attachRaw(t, k, ProvenancePredicate, []byte(`{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://slsa.dev/provenance/v1"}`))
	p.attachRaw(t, k, SignaturePredicate, []byte("no statement"))
	if _, err := Verify(t.Context(), p.mirror(), imageName, p.digest, p.policy(k)); err != nil {
		t.Error(err)
	}
}

// TestAttachHeals: what is damaged or by a former key is replaced, what others signed stays.
func TestAttachHeals(t *testing.T) {
	for name, api := range map[string]bool{"referrers API": true, "referrers by tag": false} {
		t.Run(name, func(t *testing.T) {
			m := newMirror(t, api)
			p := publish(t, m.address)
			old := anyKey(t)
			now := anyKey(t)
			other := anyKey(t)
			p.attach(t, old)
			p.attach(t, other)
			m.lie = p.flipBundles(t)
			now.retired = []string{old.public.hint()}
			p.attach(t, now)
			m.lie = nil
			if _, err := Verify(t.Context(), p.mirror(), imageName, p.digest, p.policy(now)); err != nil {
				t.Error(err)
			}
			p.attach(t, other)
			p.attach(t, now)
			for k, want := range map[*Key]bool{now: true, other: true, old: false} {
				_, err := Verify(t.Context(), p.mirror(), imageName, p.digest, p.policy(k))
				if (err == nil) != want {
					t.Errorf("%s: %v", k.public.Fingerprint(), err)
				}
			}
		})
	}
}

func TestForeignImageNeedsOnlyASignature(t *testing.T) {
	p := publish(t, newMirror(t, false).address)
	k := anyKey(t)
	p.docs = Documents{}
	p.attach(t, k)
	policy := p.policy(k)
	if _, err := Verify(t.Context(), p.mirror(), imageName, p.digest, policy); !errors.Is(err, ErrProvenance) {
		t.Errorf("without documents: %v", err)
	}
	policy.Foreign = true
	r, err := Verify(t.Context(), p.mirror(), imageName, p.digest, policy)
	if err != nil || r.Checks[2].State != Skipped {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestAttachRefusesWhatIsNotOfTheImage(t *testing.T) {
	p := publish(t, newMirror(t, false).address)
	k := anyKey(t)
	other, _ := documents(t, "sha256:"+strings.Repeat("0", 64))
	for name, docs := range map[string]Documents{
		"provenance of another image": {Provenance: other.Provenance},
		"provenance that is no JSON":  {Provenance: []byte("x")},
		"SBOM that is no JSON":        {SBOM: []byte("x")},
	} {
		if err := Attach(t.Context(), p.mirror(), imageName, p.digest, k, docs); err == nil {
			t.Errorf("%s was signed", name)
		}
	}
}

func FuzzBundle(f *testing.F) {
	k := anyKey(f)
	statement, err := makeStatement("sha256:"+strings.Repeat("0", 64), SignaturePredicate, []byte("{}"))
	if err != nil {
		f.Fatal(err)
	}
	good, err := k.signStatement(statement)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"mediaType":"` + bundleType + `","dsseEnvelope":{"payloadType":"` + payloadType + `","signatures":[{"sig":""}]}}`))
	keys := []PublicKey{{}, k.Public()}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := parseBundle(data)
		if err != nil {
			return
		}
		s, _, err := b.verify(keys)
		if err == nil && !bytes.Equal(b.Envelope.Payload, statement) {
			t.Fatalf("another statement is accepted: %+v", s)
		}
	})
}

func FuzzPredicates(f *testing.F) {
	digest := "sha256:" + strings.Repeat("0", 64)
	docs, locked := documents(f, digest)
	var s statement
	if err := json.Unmarshal(docs.Provenance, &s); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(s.Predicate))
	f.Add(docs.SBOM)
	p := Policy{Locked: locked}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, program := range []bool{false, true} {
			v := &verification{Policy: p, name: imageName, digest: digest, program: program}
			if builder, err := v.provenance(data); err == nil && builder != p.builders()[0] {
				t.Fatalf("builder %q", builder)
			}
			if err := v.sbom(data); err == nil && !json.Valid(data) {
				t.Fatal("no JSON is accepted")
			}
		}
	})
}

// junk are referrers that are not there.
func junk(artifactType string, n int) []v1.Descriptor {
	list := make([]v1.Descriptor, n)
	for i := range list {
		list[i] = oci.Describe(types.OCIManifestSchema1, []byte{byte(i)})
		list[i].ArtifactType = artifactType
	}
	return list
}

// listed is the list of referrers with others before and behind what is there.
func (p published) listed(t *testing.T, before, behind []v1.Descriptor) []byte {
	t.Helper()
	list, _, err := p.repository(t).referrers(t.Context(), p.digest)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(oci.Index{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: slices.Concat(before, list, behind)})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// What others attach to an image, however much, is in nobody's way; and it stays when the
// environment signs anew.
func TestManyReferrers(t *testing.T) {
	notes, bundles := junk("application/vnd.example.note", 300), junk(bundleType, maxBundles+1)
	for name, others := range map[string][2][]v1.Descriptor{"notes before ours": {notes, nil}, "bundles behind ours": {nil, bundles}} {
		t.Run(name, func(t *testing.T) {
			m := newMirror(t, false)
			p := publish(t, m.address)
			k := anyKey(t)
			p.attach(t, k)
			list := p.listed(t, others[0], others[1])
			// The list alone: this registry takes no index of what it does not have.
			m.lie = func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "/manifests/"+oci.ReferrersTag(p.digest)) {
					return false
				}
				if r.Method == http.MethodPut {
					list, _ = io.ReadAll(r.Body)
					w.WriteHeader(http.StatusCreated)
					return true
				}
				_, _ = w.Write(list)
				return true
			}
			if _, err := Verify(t.Context(), p.mirror(), imageName, p.digest, p.policy(k)); err != nil {
				t.Error(err)
			}
			if err := Renew(t.Context(), p.mirror(), imageName, p.digest, k, p.docs); err != nil {
				t.Fatal(err)
			}
			if _, err := Verify(t.Context(), p.mirror(), imageName, p.digest, p.policy(k)); err != nil {
				t.Error(err)
			}
			left, _, err := p.repository(t).referrers(t.Context(), p.digest)
			if err != nil {
				t.Fatal(err)
			}
			if others[0] != nil && len(left) != len(notes)+3 {
				t.Errorf("%d referrers are left, want ours and %d", len(left), len(notes))
			}
		})
	}
}

// Signing goes through the gate with the password, and not without.
func TestAttachNeedsThePassword(t *testing.T) {
	p := publish(t, newMirror(t, false).address)
	file := filepath.Join(t.TempDir(), "mirror-password")
	if err := os.WriteFile(file, mirror.NewPassword(), 0o600); err != nil {
		t.Fatal(err)
	}
	gate := httptest.NewServer(mirror.Gate{
		Hosts: []string{"127.0.0.1"}, Log: slog.New(slog.DiscardHandler),
		Dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", p.address)
		},
		Password: func() (string, error) { return mirror.ReadPassword(file) },
	}.Handler())
	t.Cleanup(gate.Close)
	m := mirror.Mirror{Address: strings.TrimPrefix(gate.URL, "http://")}
	k := anyKey(t)
	if err := Attach(t.Context(), m, imageName, p.digest, k, p.docs); err == nil || !strings.Contains(err.Error(), "401") {
		t.Fatalf("without the password: %v", err)
	}
	m.PasswordFile = file
	if err := Attach(t.Context(), m, imageName, p.digest, k, p.docs); err != nil {
		t.Fatal(err)
	}
	m.PasswordFile = ""
	if _, err := Verify(t.Context(), m, imageName, p.digest, p.policy(k)); err != nil {
		t.Errorf("reading needs no password: %v", err)
	}
}
