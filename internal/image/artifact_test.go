package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/disk"
)

// program writes a file that does not compress to nothing, and names it as an artifact.
func program(t *testing.T, repository string) (a Artifact, path string) {
	t.Helper()
	var text bytes.Buffer
	for i := range 20_000 {
		fmt.Fprintf(&text, "%x\n", i*i)
	}
	path = filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, text.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	sum, err := disk.SHA256(path)
	if err != nil {
		t.Fatal(err)
	}
	return Artifact{Repository: repository, SHA256: sum}, path
}

func TestArtifact(t *testing.T) {
	u := newUpstream(t)
	a, path := program(t, u.address+"/acme/programs")
	r := newRegistries(t, RegistryOptions{CABundle: u.ca, Keychain: anyone{}})
	for i, want := range []bool{true, false} { // the second time it is there
		if sent, err := r.PushArtifact(t.Context(), a, path); err != nil || sent != want {
			t.Fatalf("push %d: sent %t, %v", i, sent, err)
		}
	}
	other := Artifact{Repository: a.Repository, SHA256: strings.Repeat("0", 64)}
	found := r.ProbeArtifacts(t.Context(), []Artifact{a, other})
	if found[a] != nil || !errors.Is(found[other], ErrNotReachable) {
		t.Errorf("probe: %v", found)
	}
	to := filepath.Join(t.TempDir(), "fetched")
	var done, total float64
	if err := r.FetchArtifact(t.Context(), a, to, func(d, all float64) { done, total = d, all }); err != nil {
		t.Fatal(err)
	}
	if sum, err := disk.SHA256(to); err != nil || sum != a.SHA256 || done != total || total == 0 {
		t.Errorf("fetched %s, %v; %.0f of %.0f bytes told", sum, err, done, total)
	}
	if err := r.FetchArtifact(t.Context(), other, to, nil); !errors.Is(err, ErrNotReachable) || !strings.Contains(err.Error(), "does not have it (404)") {
		t.Errorf("what is not there: %v", err)
	}
	// What is pushed is what its name says, or nothing.
	if err := os.WriteFile(path, []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	wrong := Artifact{Repository: a.Repository, SHA256: strings.Repeat("1", 64)}
	if _, err := r.PushArtifact(t.Context(), wrong, path); err == nil || !strings.Contains(err.Error(), "is sha256:") {
		t.Errorf("push under another's name: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(r.opts.CacheDir, ".artifact-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Whatever a registry answers, what is taken has the digest that was asked for.
func TestArtifactTrouble(t *testing.T) {
	u := newUpstream(t)
	a, path := program(t, u.address+"/acme/programs")
	push := newRegistries(t, RegistryOptions{CABundle: u.ca, Keychain: anyone{}})
	if _, err := push.PushArtifact(t.Context(), a, path); err != nil {
		t.Fatal(err)
	}
	blob := func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/blobs/") }
	answer := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(code); return true }
	}
	for _, tt := range []struct {
		name    string
		trouble func(w http.ResponseWriter, r *http.Request) bool
		want    error
		text    string
	}{
		{"401", answer(401), ErrNotReachable, "log in with docker login"},
		{"403", answer(403), ErrNotReachable, "log in with docker login"},
		{"429", answer(429), ErrNotReachable, "429"},
		{"503", answer(503), ErrNotReachable, "503"},
		{"a page for people", func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/manifests/") {
				fmt.Fprint(w, "<html>log in</html>")
			}
			return strings.Contains(r.URL.Path, "/manifests/")
		}, ErrWrongContent, "not JSON"},
		{"an image under that tag", func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/manifests/") {
				raw, _ := u.image.RawManifest()
				_, _ = w.Write(raw)
			}
			return strings.Contains(r.URL.Path, "/manifests/")
		}, ErrWrongContent, "no application/vnd.orrery.file.v1"},
		{"swapped", func(w http.ResponseWriter, r *http.Request) bool {
			if blob(r) { // a whole zstd frame of nothing
				_, _ = w.Write([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x24, 0x00, 0x01, 0x00, 0x00, 0x99, 0xe9, 0xd8, 0x51})
			}
			return blob(r)
		}, ErrWrongContent, "unpacks to sha256:e3b0c442"},
		{"not compressed", func(w http.ResponseWriter, r *http.Request) bool {
			if blob(r) {
				fmt.Fprint(w, "not zstd at all")
			}
			return blob(r)
		}, ErrWrongContent, "magic number"},
		{"truncated", func(w http.ResponseWriter, r *http.Request) bool {
			if blob(r) {
				w.Header().Set("Content-Length", "100000")
				_, _ = w.Write([]byte{0x28, 0xb5, 0x2f, 0xfd})
				panic(http.ErrAbortHandler)
			}
			return blob(r)
		}, ErrNotReachable, "EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u.trouble = tt.trouble
			r := newRegistries(t, RegistryOptions{CABundle: u.ca, Keychain: anyone{}})
			err := r.FetchArtifact(t.Context(), a, filepath.Join(t.TempDir(), "fetched"), nil)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v; want %v with %q", err, tt.want, tt.text)
			}
		})
	}
	u.trouble = nil
	r := newRegistries(t, RegistryOptions{CABundle: u.ca, Keychain: anyone{}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.FetchArtifact(ctx, a, filepath.Join(t.TempDir(), "x"), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	// What is wrong here is not the registry's fault.
	if err := r.FetchArtifact(t.Context(), a, filepath.Join(t.TempDir(), "no", "folder"), nil); !errors.Is(err, errHere) {
		t.Errorf("no folder to write to: %v", err)
	}
}
