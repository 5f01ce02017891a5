package datastore

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sample is a backup with an entry of each kind.
func sample(tb testing.TB, h Header) []byte {
	tb.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, tb.TempDir(), h)
	if err != nil {
		tb.Fatal(err)
	}
	if err := w.AddJSON("streams/a/stream.json", map[string]int{"n": 1}); err != nil {
		tb.Fatal(err)
	}
	size, err := w.Add("streams/a/data", func(to io.Writer) error {
		_, err := io.WriteString(to, strings.Repeat("data", 1000))
		return err
	})
	if err != nil || size != 4000 {
		tb.Fatal(size, err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func open(tb testing.TB, data []byte, store string) (*Archive, error) {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "backup")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		tb.Fatal(err)
	}
	a, err := Open(file, store)
	if err == nil {
		tb.Cleanup(func() { a.Close() })
	}
	return a, err
}

func TestArchive(t *testing.T) {
	h := Header{Store: NATS, Version: "2.15.2", Environment: "e", Taken: time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)}
	data := sample(t, h)
	if !bytes.Equal(data, sample(t, h)) {
		t.Error("the same twice are other bytes")
	}
	a, err := open(t, data, NATS)
	if err != nil {
		t.Fatal(err)
	}
	h.APIVersion, h.Kind = APIVersion, kind
	if a.Header != h {
		t.Errorf("%+v", a.Header)
	}
	if got := a.Names("streams"); fmt.Sprint(got) != "[streams/a/stream.json streams/a/data]" {
		t.Error(got)
	}
	for range 2 { // from its beginning each time
		r, err := a.Open("streams/a/data")
		if err != nil {
			t.Fatal(err)
		}
		if content, err := io.ReadAll(r); err != nil || string(content) != strings.Repeat("data", 1000) {
			t.Errorf("%d bytes, %v", len(content), err)
		}
	}
	if _, err := a.Open("streams/b/data"); err == nil {
		t.Error("an entry that is not there")
	}
	// Wherever it is cut, but within the zeros after the last entry.
	last := bytes.LastIndex(data, []byte("streams/a/data\n"))
	for n := 0; n < last; n += 97 {
		if _, err := open(t, data[:n], NATS); err == nil {
			t.Fatalf("the first %d of %d bytes were taken", n, len(data))
		}
	}
	// What fails in the middle leaves nothing behind.
	dir := t.TempDir()
	w, err := NewWriter(io.Discard, dir, h)
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	if _, err := w.Add("x", func(io.Writer) error { return broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestArchiveRefuses(t *testing.T) {
	entries := func(names ...string) []byte {
		var out bytes.Buffer
		w := &Writer{tar: tar.NewWriter(&out)}
		for _, n := range names {
			text := n
			if n == headerFile {
				text = `{"apiVersion": "orrery.dev/v1alpha1", "kind": "DataBackup", "store": "nats"}`
			}
			if err := w.add(n, int64(len(text)), strings.NewReader(text), true); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	text := sample(t, Header{Store: NATS})
	for _, tt := range []struct {
		name string
		data []byte
		says string
	}{
		{"nothing", nil, "cut short"},
		{"a text", []byte("hello"), "no backup that 'orrery data backup' wrote"},
		{"another tar", entries("x"), `it begins with "x"`},
		{"another format", bytes.Replace(text, []byte("orrery.dev/v1alpha1"), []byte("orrery.dev/v9alpha1"), 1), "with the orrery that wrote it"},
		{"another store", sample(t, Header{Store: "scylladb"}), "a backup of scylladb, not of nats"},
		{"changed", bytes.Replace(text, []byte("datadata"), []byte("datxdata"), 1), "changed or damaged"},
		{"an entry twice", entries(headerFile, "a", "a"), `an entry "a" that nobody wrote`},
		{"a way out", entries(headerFile, "a/../../b"), "that nobody wrote"},
		{"sums twice", entries(headerFile, sumsFile), "changed or damaged"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := open(t, tt.data, NATS); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want one that says %q", err, tt.says)
			}
		})
	}
}

// What is hashed is what is given: a sparse entry would be another thing for each.
func TestArchiveRefusesSparseEntries(t *testing.T) {
	var out bytes.Buffer
	w, err := NewWriter(&out, t.TempDir(), Header{Store: NATS})
	if err != nil {
		t.Fatal(err)
	}
	const name, size = "streams/a/data", 1 << 20
	blocks := append(fmt.Appendf(nil, "%-512s", "1\n0\n5\n"), "hello"...)
	h := &tar.Header{Typeflag: tar.TypeReg, Name: "x", Size: int64(len(blocks)), Format: tar.FormatPAX, PAXRecords: map[string]string{
		"GXX.sparse.major": "1", "GXX.sparse.minor": "0", "GXX.sparse.name": name, "GXX.sparse.realsize": fmt.Sprint(size),
	}}
	if err := w.tar.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if _, err := w.tar.Write(blocks); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&w.sums, "%x  %s\n", sha256.Sum256(append([]byte("hello"), make([]byte, size-5)...)), name)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	data := bytes.ReplaceAll(out.Bytes(), []byte("GXX.sparse"), []byte("GNU.sparse"))
	if a, err := open(t, data, NATS); err == nil {
		content, err := a.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		given, _ := io.ReadAll(content)
		t.Errorf("taken; what was hashed begins with hello, what is given with %.20q", given)
	}
}

// A backup that could not be given back whole is refused while nothing was deleted for it.
func TestRestorable(t *testing.T) {
	const good = `{"config": {"name": "a", "num_replicas": 3}, "state": {"messages": 2, "last_seq": 5}}`
	archive := func(entries ...string) *Archive {
		t.Helper()
		var out bytes.Buffer
		w, err := NewWriter(&out, t.TempDir(), Header{Store: NATS})
		for i := 0; i < len(entries) && err == nil; i += 2 {
			err = w.add(entries[i], int64(len(entries[i+1])), strings.NewReader(entries[i+1]), true)
		}
		if err = errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		a, err := open(t, out.Bytes(), NATS)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	all, err := restorables(archive("streams/a/stream.json", good, "streams/a/data", "x"), 1)
	if err != nil || len(all) != 1 || all[0].Name != "a" || all[0].Messages != 2 || all[0].want.LastSeq != 5 || !strings.Contains(all[0].Note, "kept 1 times and not 3") {
		t.Errorf("%+v, %v", all, err)
	}
	if all, err := restorables(archive(), 1); err != nil || len(all) > 0 {
		t.Errorf("of nothing: %+v, %v", all, err)
	}
	for says, a := range map[string]*Archive{
		`no entry "streams/a/data"`:        archive("streams/a/stream.json", good),
		`no entry "streams/a/stream.json"`: archive("streams/a/data", "x"),
		`it is that of stream "a"`:         archive("streams/b/stream.json", good, "streams/b/data", "x"),
		`"streams/x/a/stream.json"`:        archive("streams/x/a/stream.json", good, "streams/a/data", "x"),
		`"streams/a/more"`:                 archive("streams/a/stream.json", good, "streams/a/data", "x", "streams/a/more", "x"),
		"read its state":                   archive("streams/a/stream.json", `{"config": {"name": "a", "num_replicas": 1}, "state": []}`, "streams/a/data", "x"),
		"read its configuration":           archive("streams/a/stream.json", `{"config": {"name": "a"}, "state": {}}`, "streams/a/data", "x"),
	} {
		if _, err := restorables(a, 1); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}

func TestOlder(t *testing.T) {
	for _, tt := range []struct {
		have, want string
		older      bool
	}{
		{"2.15.2", "2.15.2", false}, {"2.15.0", "2.15.9", false}, {"2.15.2", "2.16.0", true}, {"2.16.0", "2.15.2", false}, {"2.9.9", "2.15.0", true},
	} {
		if got := older(tt.have, tt.want); got != tt.older {
			t.Errorf("older(%s, %s) = %v", tt.have, tt.want, got)
		}
	}
}

// FuzzOpen: whatever a file holds, what is taken of it has the sums that it names.
func FuzzOpen(f *testing.F) {
	f.Add(sample(f, Header{Store: NATS}))
	f.Add([]byte("hello"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := open(t, data, NATS)
		if err != nil {
			return
		}
		for _, name := range a.Names("streams") {
			r, err := a.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, r); err != nil {
				t.Fatal(err)
			}
		}
	})
}
