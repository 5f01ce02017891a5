package store

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

// A registry takes again what was damaged on its disk, and nothing else is touched.
func TestMend(t *testing.T) {
	m := newMirror(t)
	m.image("shop", "one", "1")
	whole, changed, cut := m.blob("shop", "is whole"), m.blob("shop", "is changed"), m.blob("shop", "is cut")
	absent := m.manifest("shop", map[string]any{"a": 1}, types.OCIManifestSchema1)
	m.write(filepath.Join(blobDir(changed.Digest.Hex), "data"), "is other!!")
	m.write(filepath.Join(blobDir(cut.Digest.Hex), "data"), "")
	if err := os.RemoveAll(filepath.Join(m.dir, blobDir(absent.Digest.Hex))); err != nil {
		t.Fatal(err)
	}
	before, _ := m.size()
	removed, err := m.Mend(t.Context(), []string{whole.Digest.String(), changed.Digest.String(), cut.Digest.String(), absent.Digest.String()})
	if err != nil || !slices.Equal(removed, []string{changed.Digest.String(), cut.Digest.String()}) {
		t.Errorf("removed %v, %v; want %s and %s", removed, err, changed.Digest, cut.Digest)
	}
	if after, _ := m.size(); after != before-int64(len("is other!!")) {
		t.Errorf("%d bytes became %d", before, after)
	}
	if removed, err := m.Mend(t.Context(), removed); err != nil || len(removed) > 0 {
		t.Errorf("again: removed %v, %v", removed, err)
	}
	for _, bad := range []string{"", "sha256:..", "../../etc", "sha256:" + string(make([]byte, 64))} {
		if _, err := m.Mend(t.Context(), []string{bad}); err == nil {
			t.Errorf("%q is taken for a digest", bad)
		}
	}
}
