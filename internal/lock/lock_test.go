package lock

import (
	"bytes"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	sumA = "h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	linx = "linux/amd64"
)

func hexOf(c string) string { return strings.Repeat(c, 64) }

func sample() Lock {
	return Lock{APIVersion: APIVersion, Kind: Kind, Pins: map[string]Pin{"docker.io/acme/op:v1": {
		Digest: "sha256:" + hexOf("9"), Seen: "2026-11-30", Platforms: []string{linx}, Bytes: 1000}},
		Files: map[string]File{"db/crd.yaml": {URL: "https://x.test/crd.yaml", Commit: strings.Repeat("8", 40), SHA256: hexOf("7")}}, Platforms: map[string]Platform{linx: {
			Binaries: map[string]Binary{
				"server": {Module: "example.org/server@v1.0.0", Sum: sumA, Package: "example.org/server", Go: "go1.26.8",
					Flags: []string{"-trimpath", "CGO_ENABLED=0"}, Pins: "sha256:" + hexOf("a"), SHA256: hexOf("b"), CPUSeconds: 12.5},
				"own": {Module: "example.org/repo", Package: ".", Go: "go1.26.8", Flags: []string{"-trimpath"}, Tree: "sha256:" + hexOf("c"), SHA256: hexOf("d")},
				"c": {Module: "example.org/c@v1.0.0", Sum: sumA, Package: "example.org/c", Go: "go1.26.8", Flags: []string{"CGO_ENABLED=1"},
					CTools: []string{"gcc 12", "libc6-dev 2.36"}, SHA256: hexOf("e")},
			},
			Images: map[string]Image{"server": {Version: "v1", Binaries: []string{"server"}, Digest: "sha256:" + hexOf("f")}},
		}}}
}

func TestRoundTrip(t *testing.T) {
	data, err := sample().Format()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(data, FileName)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(sample(), got); d != "" {
		t.Error(d)
	}
	again, err := got.Format()
	if err != nil || !bytes.Equal(again, data) {
		t.Errorf("written twice it differs (%v):\n%s", err, again)
	}
}

func TestMissing(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), FileName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v does not wrap fs.ErrNotExist", err)
	}
}

func TestOtherVersion(t *testing.T) {
	for text, want := range map[string]bool{"apiVersion: orrery.dev/v9\nkind: Lock\n": true, "": false, "kind: Lock\n": false} {
		if _, err := Parse([]byte(text), FileName); err == nil || errors.Is(err, ErrVersion) != want {
			t.Errorf("%q: error %v; is ErrVersion should be %v", text, err, want)
		}
	}
}

func TestBadFiles(t *testing.T) {
	good, err := sample().Format()
	if err != nil {
		t.Fatal(err)
	}
	change := func(old, new string) string {
		out := strings.Replace(string(good), old, new, 1)
		if out == string(good) {
			t.Fatalf("%q is not in the sample", old)
		}
		return out
	}
	for name, tc := range map[string]struct{ text, want string }{
		"empty":       {"", "apiVersion"},
		"not YAML":    {"{", FileName},
		"newer":       {change(APIVersion, "orrery.dev/v9"), `"orrery.dev/v9"`},
		"kind":        {change("kind: Lock", "kind: Key"), "kind"},
		"unknown":     {change("package: .", "package: .\n        colour: red"), "colour"},
		"duplicate":   {change("package: .", "package: .\n        package: ./x"), "package"},
		"type":        {change("cpuSeconds: 12.5", "cpuSeconds: long"), "cpuSeconds"},
		"digest":      {change("digest: sha256:ff", "digest: sha256:fg"), "platforms.linux/amd64.images.server.digest"},
		"binary hash": {change(hexOf("b"), hexOf("b")[1:]), "platforms.linux/amd64.binaries.server.sha256"},
		"sum":         {change(sumA, "h1:short"), "platforms.linux/amd64.binaries.c.sum"},
		"no sum":      {change("@v1.0.0", ""), "sum"},
		"dangling":    {change("      - server\n", "      - sever\n"), "platforms.linux/amd64.images.server.binaries[0]"},
		"negative":    {change("12.5", "-1"), "cpuSeconds"},
		"platform":    {change("linux/amd64:", "amd64:"), "OS/ARCH"},
		"omitted":     {change("    images:", "    omitted: {binary own: no compiler}\n    images:"), `"binary own" is not omitted`},
		"no reason":   {change("    images:", "    omitted: {image x: ''}\n    images:"), "platforms.linux/amd64.omitted"},
		"no kind":     {change("    images:", "    omitted: {x: why}\n    images:"), "must be binary NAME or image NAME"},
		"pin":         {change("sha256:99", "sha256:9g"), "pins.docker.io/acme/op:v1.digest"},
		"pin's day":   {change("2026-11-30", "yesterday"), "pins.docker.io/acme/op:v1.seen"},
		"file":        {change("https://x.test", "http://x.test"), "files.db/crd.yaml.url"},
		"file's hash": {change(hexOf("7"), "7"), "files.db/crd.yaml.sha256"},
		"commit":      {change(strings.Repeat("8", 40), "main"), "files.db/crd.yaml.commit"},
		"conflict":    {change("\nplatforms:", "\n<<<<<<< HEAD\nplatforms:"), "merge conflict"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(tc.text), FileName)
			if err == nil {
				t.Fatal("it was accepted")
			}
			if !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), FileName) {
				t.Errorf("the error does not name %s and %s:\n%v", FileName, tc.want, err)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Platform)
		all    bool
		want   []string // each begins a drift and must have all words of the rest
		notes  int
	}{
		"same": {change: func(*Platform) {}, all: true},
		"not built": {change: func(p *Platform) {
			edit(p, "server", func(b *Binary) { b.SHA256 = "" })
			image(p, func(i *Image) { i.Digest = "" })
		}, all: true},
		"go": {
			change: func(p *Platform) {
				edit(p, "server", func(b *Binary) { b.Go, b.SHA256 = "go1.27.0", hexOf("0") })
				image(p, func(i *Image) { i.Digest = "sha256:" + hexOf("0") })
			},
			want: []string{"binary server: go is go1.27.0, locked is go1.26.8|GOTOOLCHAIN=go1.26.8|orrery lock"},
		},
		"flag": {
			change: func(p *Platform) {
				edit(p, "server", func(b *Binary) { b.Flags = []string{"-trimpath", "CGO_ENABLED=1"} })
			},
			want: []string{"binary server: flags is CGO_ENABLED=1, locked is CGO_ENABLED=0|orrery lock"},
		},
		"module": {
			change: func(p *Platform) { edit(p, "server", func(b *Binary) { b.Module = "example.org/server@v1.0.1" }) },
			want:   []string{"binary server: module is example.org/server@v1.0.1, locked is example.org/server@v1.0.0"},
		},
		"tree": {
			change: func(p *Platform) { edit(p, "own", func(b *Binary) { b.Tree = "sha256:" + hexOf("0") }) },
			want:   []string{"binary own: tree|git diff"},
		},
		"bytes": {
			change: func(p *Platform) {
				edit(p, "server", func(b *Binary) { b.SHA256 = hexOf("0") })
				image(p, func(i *Image) { i.Digest = "sha256:" + hexOf("0") })
			},
			want: []string{"binary server: sha256 is 0000|inputs are as locked"},
		},
		"image only": {
			change: func(p *Platform) { image(p, func(i *Image) { i.Digest = "sha256:" + hexOf("0") }) },
			want:   []string{"image server: digest|orrery images reproduce server"},
		},
		"user": {
			change: func(p *Platform) { image(p, func(i *Image) { i.User = "0" }) },
			want:   []string{"image server: user is 0, locked is nothing"},
		},
		"C tools": {
			change: func(p *Platform) {
				edit(p, "c", func(b *Binary) { b.CTools, b.SHA256 = []string{"gcc 13", "libc6-dev 2.36"}, hexOf("0") })
			},
			notes: 1,
		},
		"same C tools": {
			change: func(p *Platform) { edit(p, "c", func(b *Binary) { b.SHA256 = hexOf("0") }) },
			want:   []string{"binary c: sha256"},
		},
		"new": {
			change: func(p *Platform) { p.Binaries["new"] = p.Binaries["own"]; p.Images["new"] = p.Images["server"] },
			want:   []string{"binary new: is not in the lock|orrery lock", "image new: is not in the lock"},
		},
		"gone": {
			change: func(p *Platform) { delete(p.Binaries, "own"); delete(p.Images, "server") }, all: true,
			want: []string{"binary own: is in the lock and not in the catalogue", "image server: is in the lock"},
		},
		"a part": {change: func(p *Platform) { delete(p.Binaries, "own"); delete(p.Images, "server") }},
	} {
		t.Run(name, func(t *testing.T) {
			have := sample().Platforms[linx]
			tc.change(&have)
			drift, notes := Check(sample().Platforms[linx], have, tc.all)
			if len(drift) != len(tc.want) || len(notes) != tc.notes {
				t.Fatalf("drift %q, notes %q; want %q and %d notes", drift, notes, tc.want, tc.notes)
			}
			for i, want := range tc.want {
				for n, part := range strings.Split(want, "|") {
					text := drift[i].Error()
					if !strings.Contains(text, part) || n == 0 && !strings.HasPrefix(text, part) {
						t.Errorf("drift %q lacks %q", text, part)
					}
				}
			}
		})
	}
}

// TestOmitted: what the lock leaves out is compared with nothing, and that is said.
func TestCheckFiles(t *testing.T) {
	locked := sample().Files
	if drift := CheckFiles(locked, sample().Files); len(drift) > 0 {
		t.Errorf("the same: %v", drift)
	}
	moved := File{URL: "https://x.test/crd.yaml", Commit: strings.Repeat("8", 40), SHA256: hexOf("6")}
	drift := CheckFiles(locked, map[string]File{"db/crd.yaml": moved, "db/new.yaml": moved})
	if len(drift) != 2 || !strings.Contains(drift[0].Error(), "content (sha256) is "+hexOf("6")+", locked is "+hexOf("7")) || !strings.Contains(drift[1].Error(), "is not in the lock") {
		t.Errorf("%v", drift)
	}
	if drift = CheckFiles(locked, nil); len(drift) != 1 || !strings.Contains(drift[0].Error(), "not in the catalogue") {
		t.Errorf("%v", drift)
	}
}

func TestOmitted(t *testing.T) {
	l, h := sample().Platforms[linx], sample().Platforms[linx]
	delete(l.Binaries, "server")
	delete(l.Images, "server")
	l.Omitted = map[string]string{"binary server": "no compiler", "image server": "no compiler"}
	drift, notes := Check(l, h, true)
	if len(drift) > 0 || len(notes) != 2 || !strings.Contains(notes[0], "compared with nothing: no compiler") {
		t.Errorf("drift %v, notes %q", drift, notes)
	}
	data, err := Lock{Platforms: map[string]Platform{linx: l}}.Format()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Parse(data, FileName); err != nil || again.Platforms[linx].Omitted["image server"] != "no compiler" {
		t.Errorf("%+v, %v", again, err)
	}
	l.Omitted = nil
	if drift, _ := Check(l, h, true); len(drift) != 2 {
		t.Errorf("not omitted: %v", drift)
	}
}

func TestExplain(t *testing.T) {
	have := sample().Platforms[linx]
	for name := range have.Binaries {
		edit(&have, name, func(b *Binary) { b.Go = "go1.27.0" })
	}
	have.Images["other"] = have.Images["server"]
	drift, _ := Check(sample().Platforms[linx], have, true)
	want := "binary c, own, server: go is go1.27.0, locked is go1.26.8\n" +
		"  use that Go: PATH=\"$(GOTOOLCHAIN=go1.26.8 go env GOROOT)/bin:$PATH\" orrery …; or lock what yours makes: orrery lock\n" +
		"image other: is not in the lock\n  'orrery lock' brings the lock up to date"
	if got := Explain(drift); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func edit(p *Platform, name string, f func(*Binary)) {
	b := p.Binaries[name]
	f(&b)
	p.Binaries[name] = b
}

func image(p *Platform, f func(*Image)) {
	i := p.Images["server"]
	f(&i)
	p.Images["server"] = i
}

func FuzzParse(f *testing.F) {
	good, err := sample().Format()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("apiVersion: orrery.dev/v1alpha1\nkind: Lock\nplatforms: {a/b: null}\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Parse(data, "x")
		if err != nil {
			if !strings.HasPrefix(err.Error(), "x: ") {
				t.Errorf("the error does not name the file: %v", err)
			}
			return
		}
		out, err := l.Format()
		if err != nil {
			t.Fatalf("accepted and not writable: %v", err)
		}
		again, err := Parse(out, "x")
		if err != nil {
			t.Fatalf("written and not readable: %v\n%s", err, out)
		}
		if second, _ := again.Format(); !bytes.Equal(second, out) {
			t.Errorf("not stable:\n%s\n%s", out, second)
		}
	})
}
