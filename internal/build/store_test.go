package build

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/build/buildtest"
	"github.com/orrery-dev/orrery/internal/ui"
)

func TestDamagedEntryIsBuiltAgain(t *testing.T) {
	for name, tc := range map[string]struct {
		damage func(path string) error
		link   bool // only noticed when hashed
	}{
		"truncated":   {damage: func(p string) error { return os.Truncate(p, 10) }},
		"removed":     {damage: os.Remove},
		"no manifest": {damage: func(p string) error { return os.Remove(filepath.Join(filepath.Dir(p), "manifest.json")) }},
		"bad manifest": {damage: func(p string) error {
			return os.WriteFile(filepath.Join(filepath.Dir(p), "manifest.json"), []byte("{"), 0o644)
		}},
		"written to": {damage: func(p string) error { return buildtest.Flip(p, false) }},
		"bit rot":    {damage: func(p string) error { return buildtest.Flip(p, true) }, link: true},
	} {
		t.Run(name, func(t *testing.T) {
			b, events := newBuilder(t, t.TempDir())
			bin := buildtest.Hello(t)
			path, err := b.Binary(t.Context(), bin)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := tc.damage(path); err != nil {
				t.Fatal(err)
			}
			if ok, err := b.Cached(t.Context(), bin); ok != tc.link || err != nil {
				t.Errorf("Cached = %v, %v; want %v", ok, err, tc.link)
			}
			nodes := t.TempDir()
			if err := b.Link(t.Context(), nodes, bin); err != nil {
				t.Fatal(err)
			}
			if got := run(t, filepath.Join(nodes, "hello")); got != "hello world" {
				t.Errorf("it printed %q", got)
			}
			if w := events.Messages(ui.TypeWarning); len(w) != 1 || !strings.Contains(w[0], "damaged") {
				t.Errorf("warnings %q, want one about the damage", w)
			}
		})
	}
}

// A cache that was copied has new times and is still good.
func TestCopiedCache(t *testing.T) {
	dir := t.TempDir()
	b, events := newBuilder(t, dir)
	bin := buildtest.Hello(t)
	path, err := b.Binary(t.Context(), bin)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if ok, err := b.Cached(t.Context(), bin); !ok || err != nil {
		t.Errorf("Cached = %v, %v", ok, err)
	}
	if w := events.Messages(ui.TypeWarning); len(w) != 0 {
		t.Errorf("warnings %q", w)
	}
}

func TestOldBuildsAreRetired(t *testing.T) {
	b, _ := newBuilder(t, t.TempDir())
	other := buildtest.Hello(t)
	other.Name = "other"
	if _, err := b.Binary(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	bin := buildtest.Hello(t)
	for i := range keep + 2 {
		bin.LDFlags = fmt.Sprintf("-X main.who=%d", i)
		path, err := b.Binary(t.Context(), bin)
		if err != nil {
			t.Fatal(err)
		}
		made := time.Unix(int64(i), 0)
		if err := os.Chtimes(filepath.Join(filepath.Dir(path), "manifest.json"), made, made); err != nil {
			t.Fatal(err)
		}
	}
	for i := range keep + 2 {
		bin.LDFlags = fmt.Sprintf("-X main.who=%d", i)
		if ok, err := b.Cached(t.Context(), bin); ok != (i >= 2) || err != nil {
			t.Errorf("build %d cached: %v, %v", i, ok, err)
		}
	}
	if ok, _ := b.Cached(t.Context(), other); !ok {
		t.Error("another program went as well")
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"format":1,"key":"k","name":"hello","sha256":"x","size":3}`))
	f.Add([]byte(`{"format":1,"key":"k","name":"../../etc/passwd"}`))
	f.Add([]byte(`null`))
	dir := f.TempDir()
	s := store{dir: dir}
	if err := os.MkdirAll(filepath.Join(dir, "k"), 0o755); err != nil {
		f.Fatal(err)
	}
	if err := os.WriteFile(s.path("k", "hello"), []byte("abc"), 0o644); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(s.manifest("k"), data, 0o644); err != nil {
			t.Fatal(err)
		}
		if m, err := s.verify("k"); err == nil && m.Name != "hello" {
			t.Errorf("accepted %+v", m)
		} else if err != nil && !errors.Is(err, errCorrupt) {
			t.Errorf("error %v does not say that the entry is damaged", err)
		}
	})
}
