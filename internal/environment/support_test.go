package environment

import (
	"archive/tar"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/driver"
)

// archived is what a support archive holds, by name.
func archived(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zr, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for tr := tar.NewReader(zr); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimPrefix(h.Name, "support/")] = string(b)
	}
}

// TestSupportArchive has what helps, and no key, Secret or file that a node points at.
func TestSupportArchive(t *testing.T) {
	s := newSmall(t)
	s.mustUp(Selection{})
	s.cluster.API.Put(manifest(t, "v1", "Secret", "shop", "till", map[string]any{"data": map[string]any{"p": base64.StdEncoding.EncodeToString([]byte(planted))}}))
	p := s.open(Selection{})
	defer p.Close()
	key := filepath.Join(t.TempDir(), "host.key")
	for file, text := range map[string]string{
		key: planted, filepath.Join(p.StateDir, "pki", "ca.key"): planted, filepath.Join(p.StateDir, "some.log"): strings.Repeat("x", supportLogLimit) + "the end",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(key, filepath.Join(p.StateDir, "link.log")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), p.SupportFile())
	if err := p.WriteSupport(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	all := archived(t, file)
	for name, part := range map[string]string{
		"host.json": "kernel", "spec.json": `"small"`, "observation.json": "server1", "status.json": "shop", "preflight.json": "[", "cluster/pods.json": "shop",
		"cluster/nodes.json": "agent1", "state/some.log": "the end", "state/journal.jsonl": "begin",
	} {
		if !strings.Contains(all[name], part) {
			t.Errorf("%s has nothing of %q: %.80q", name, part, all[name])
		}
	}
	logs := 0
	for name, text := range all {
		if strings.HasPrefix(name, "cluster/logs/shop/") {
			logs++
		}
		if strings.Contains(text, planted) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(planted))) {
			t.Errorf("%s holds what nobody may see", name)
		}
	}
	if logs == 0 {
		t.Error("no log of a pod")
	}
	if len(all["state/some.log"]) != supportLogLimit {
		t.Errorf("%d bytes of a long log", len(all["state/some.log"]))
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st, err)
	}
	if err := p.WriteSupport(t.Context(), file); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over one that is there: %v", err)
	}
}

// TestTrustIsTakenBack: what the host was told to trust goes with the environment.
func TestTrustIsTakenBack(t *testing.T) {
	dir := t.TempDir()
	folder, program := trustFolder, trustProgram
	t.Cleanup(func() { trustFolder, trustProgram = folder, program })
	trustFolder, trustProgram = filepath.Join(dir, "none"), filepath.Join(dir, "update")
	if err := os.WriteFile(trustProgram, []byte("#!/bin/sh\nls "+dir+"/none > "+dir+"/seen\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := newSmall(t)
	s.mustUp(Selection{})
	p := s.open(Selection{})
	defer p.Close()
	if _, err := p.Trust(t.Context()); err == nil || !strings.Contains(err.Error(), "orrery deploy namespaces") {
		t.Errorf("without an authority: %v", err)
	}
	authority := manifest(t, "v1", "Secret", "shop", "authority", map[string]any{"data": map[string]any{
		"ca.crt": base64.StdEncoding.EncodeToString(certificate(t, "small", time.Now().Add(time.Hour))),
	}})
	authority.SetLabels(map[string]string{"orrery.dev/generated": "true"})
	authority.SetAnnotations(map[string]string{"orrery.dev/issuers": "environment"})
	s.cluster.API.Put(authority)
	if _, err := p.Trust(t.Context()); err == nil || !strings.Contains(err.Error(), "orrery trust --print") {
		t.Errorf("on a host of another kind: %v", err)
	}
	if err := os.Mkdir(trustFolder, 0o755); err != nil {
		t.Fatal(err)
	}
	file, err := p.Trust(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := func() string { b, _ := os.ReadFile(filepath.Join(dir, "seen")); return strings.TrimSpace(string(b)) }
	if seen() != filepath.Base(file) {
		t.Errorf("the host read %q", seen())
	}
	if removed, err := p.Distrust(t.Context()); err != nil || !removed || seen() != "" {
		t.Errorf("removed %t, %v; the host reads %q", removed, err, seen())
	}
	if removed, err := p.Distrust(t.Context()); err != nil || removed {
		t.Errorf("again: %t, %v", removed, err)
	}
	if slices.ContainsFunc(p.journal.Live(), func(f driver.Effect) bool { return f.Kind == trustEffect }) {
		t.Errorf("the journal has %v", p.journal.Live())
	}
}
