package build

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// debianTar is what dpkg-deb gives of a package.
func debianTar(t *testing.T, entries ...tar.Header) *tar.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		var content []byte
		if h.Typeflag == tar.TypeReg && h.Linkname != "" { // a file of this host
			var err error
			if content, err = os.ReadFile(h.Linkname); err != nil {
				t.Fatal(err)
			}
			h.Linkname, h.Size = "", int64(len(content))
		}
		h.Mode = 0o755
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return tar.NewReader(&b)
}

// TestClosure packs a program of this host with the libraries that it names.
func TestClosure(t *testing.T) {
	program, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Skip("there is no shell: ", err)
	}
	needs, err := elfNeeds(program)
	if err != nil || len(needs) == 0 {
		t.Skip("the shell is linked statically, or no ELF: ", err)
	}
	entries := []tar.Header{
		{Typeflag: tar.TypeDir, Name: "./"}, {Typeflag: tar.TypeReg, Name: "./usr/bin/tool", Linkname: program},
		{Typeflag: tar.TypeSymlink, Name: "./usr/lib/tool/bin/tool", Linkname: "../../../bin/tool"},
		{Typeflag: tar.TypeReg, Name: "./usr/share/doc/tool/copyright"}, {Typeflag: tar.TypeReg, Name: "./usr/share/doc/tool/README"},
		{Typeflag: tar.TypeReg, Name: "./usr/lib/x86_64-linux-gnu/libother.so.1"},
	}
	seen := map[string]bool{}
	for todo := needs; len(todo) > 0; todo = todo[1:] {
		so := todo[0]
		if seen[so] {
			continue
		}
		seen[so] = true
		found, _ := filepath.Glob("/lib*/" + so)
		more, _ := filepath.Glob("/lib/*/" + so)
		if found = append(found, more...); len(found) == 0 {
			t.Skipf("where this host has %s is not known", so)
		}
		// As Debian has them: a link beside the file.
		entries = append(entries, tar.Header{Typeflag: tar.TypeReg, Name: "./lib/x86_64-linux-gnu/real-" + so, Linkname: found[0]},
			tar.Header{Typeflag: tar.TypeSymlink, Name: "./lib/x86_64-linux-gnu/" + so, Linkname: "real-" + so})
		deeper, err := elfNeeds(found[0])
		if err != nil {
			t.Fatal(err)
		}
		todo = append(todo, deeper...)
	}
	u := &unpackedDebian{dir: t.TempDir(), links: map[string]string{}}
	if err := u.read(debianTar(t, entries...)); err != nil {
		t.Fatal(err)
	}
	files, err := u.closure("usr/lib/tool/bin/tool")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.name)
	}
	want := []string{"bin/tool", "doc/tool/copyright"}
	for so := range seen {
		want = append(want, "lib/"+so)
	}
	slices.Sort(names)
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("files: %v, want %v", names, want)
	}
	if err := writeArchive(filepath.Join(t.TempDir(), "a"), files); err != nil {
		t.Error(err)
	}
	if _, err := u.closure("usr/bin/none"); err == nil {
		t.Error("a program that no package has")
	}
	for _, name := range slices.Clone(u.files) {
		if strings.HasPrefix(path.Base(name), "real-") {
			u.files = slices.DeleteFunc(u.files, func(f string) bool { return f == name })
		}
	}
	if _, err := u.closure("usr/bin/tool"); err == nil || !strings.Contains(err.Error(), "which no package of the catalogue's list has") {
		t.Errorf("a library is missing: %v", err)
	}
}

func TestDebianPackageRefused(t *testing.T) {
	u := &unpackedDebian{dir: t.TempDir(), links: map[string]string{}}
	if err := u.read(debianTar(t, tar.Header{Typeflag: tar.TypeReg, Name: "../a"})); err == nil {
		t.Error("a file outside of the package")
	}
	if err := u.read(debianTar(t, tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "a"})); err != nil {
		t.Error(err)
	}
	if _, ok := u.resolve("a"); ok {
		t.Error("a link to itself is a file")
	}
	if err := u.read(tar.NewReader(io.LimitReader(bytes.NewReader(make([]byte, 10)), 5))); err == nil {
		t.Error("half a tar")
	}
}

// FuzzDebianPackage unpacks anything as a package, and packs the program that it has.
func FuzzDebianPackage(f *testing.F) {
	shell, err := os.ReadFile("/bin/sh")
	if err != nil {
		f.Skip(err)
	}
	build := func(entries ...tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range entries {
			h.Mode = 0o755
			if h.Typeflag == tar.TypeReg {
				h.Size = int64(min(len(shell), 4096))
			}
			if err := w.WriteHeader(&h); err != nil {
				f.Fatal(err)
			}
			if h.Typeflag == tar.TypeReg {
				_, _ = w.Write(shell[:h.Size])
			}
		}
		_ = w.Close()
		return b.Bytes()
	}
	f.Add(build(tar.Header{Typeflag: tar.TypeReg, Name: "./usr/bin/tool"}, tar.Header{Typeflag: tar.TypeSymlink, Name: "./lib/x86_64-linux-gnu/libc.so.6", Linkname: "tool"}))
	f.Add(build(tar.Header{Typeflag: tar.TypeSymlink, Name: "./usr/bin/tool", Linkname: "/usr/lib/tool"}, tar.Header{Typeflag: tar.TypeReg, Name: "./usr/lib/tool"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		u := &unpackedDebian{dir: filepath.Join(dir, "root"), links: map[string]string{}}
		err := u.read(tar.NewReader(bytes.NewReader(data)))
		if left, _ := os.ReadDir(dir); len(left) > 1 {
			t.Errorf("written outside: %v", left)
		}
		if err != nil {
			return
		}
		files, err := u.closure("usr/bin/tool")
		if err != nil {
			return
		}
		for _, file := range files {
			if !filepath.IsLocal(file.name) {
				t.Errorf("a node would unpack %q", file.name)
			}
		}
	})
}
