package ci

import (
	"archive/zip"
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// proxied serves versions of example.org/dep from files.
func proxied(t *testing.T, versions map[string]string) {
	t.Helper()
	proxy := t.TempDir()
	at := "example.org/dep/@v/"
	list := ""
	for v, code := range versions {
		list += v + "\n"
		mod := "module example.org/dep\n\ngo 1.26\n"
		var buf bytes.Buffer
		z := zip.NewWriter(&buf)
		for name, text := range map[string]string{"go.mod": mod, "dep.go": code} {
			w, err := z.Create("example.org/dep@" + v + "/" + name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		write(t, proxy, map[string]string{at + v + ".info": `{"Version":"` + v + `"}`, at + v + ".mod": mod, at + v + ".zip": buf.String()})
	}
	write(t, proxy, map[string]string{at + "list": list})
	for name, value := range map[string]string{
		"GOPROXY": "file://" + proxy, "GONOSUMDB": "*", "GONOSUMCHECK": "1", "GOFLAGS": "-modcacherw", "GOMODCACHE": t.TempDir(), "GOPRIVATE": "",
	} {
		t.Setenv(name, value)
	}
}

func TestUpdate(t *testing.T) {
	const two = "package dep\n\nfunc Two() int { return 2 }\n"
	proxied(t, map[string]string{
		"v1.0.0":        two,
		"v1.1.0":        "package dep\n\nfunc Two() int { return 1 + 1 }\n",
		"v1.2.0":        "package dep\n\nfunc Two() int { return 3 }\n",
		"v1.3.0":        "package dep\n",
		"v1.4.0-beta.1": two,
	})
	r := withTools(t)
	write(t, r.Root, map[string]string{
		"go.mod":     "module x\n\ngo 1.26\n\nrequire example.org/dep v1.0.0\n",
		"x.go":       "package x\n\nimport \"example.org/dep\"\n\nfunc Two() int { return dep.Two() }\n",
		"x_test.go":  "package x\n\nimport \"testing\"\n\nfunc Test(t *testing.T) {\n\tif Two() != 2 {\n\t\tt.Fatal(\"not two\")\n\t}\n}\n",
		"sub/go.mod": "module y\n\ngo 1.26\n\nrequire example.org/dep v1.0.0\n\nreplace example.org/dep => ../dep\n",
	})
	t.Setenv("ORRERY_VULNDB", "http://127.0.0.1:1/")
	if out, err := r.command(t.Context(), "go", "mod", "tidy").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	rows, err := r.Update(t.Context(), "example.org/dep")
	if err != nil || len(rows) != 2 {
		t.Fatal(rows, err)
	}
	u := rows[0]
	if u.From != "v1.0.0" || u.To != "v1.1.0" || len(u.Left) != 2 || !strings.Contains(u.Left[0], "v1.3.0: go build") ||
		!strings.Contains(u.Left[1], "v1.2.0: go test") {
		t.Errorf("%+v", u)
	}
	if len(rows[1].Left) != 1 || !strings.Contains(rows[1].Left[0], "replaced") || rows[1].To != "v1.0.0" {
		t.Errorf("%+v", rows[1])
	}
	mod, err := os.ReadFile(filepath.Join(r.Root, "go.mod"))
	if err != nil || !bytes.Contains(mod, []byte("example.org/dep v1.1.0")) {
		t.Errorf("%s %v", mod, err)
	}
	// A second time all is left as it is, for the same reasons.
	again, err := r.Update(t.Context(), "")
	if err != nil || len(again) != 1 || again[0].To != "v1.1.0" || !reflect.DeepEqual(again[0].Left, u.Left) {
		t.Errorf("%+v, %v", again, err)
	}
	if now, _ := os.ReadFile(filepath.Join(r.Root, "go.mod")); !bytes.Equal(now, mod) {
		t.Errorf("go.mod is not as it was:\n%s", now)
	}
	_, err = r.Update(t.Context(), "example.org/other")
	want(t, err, "no go.mod of this clone requires")
}

func TestTools(t *testing.T) {
	r := &Runner{Root: here}
	tools, err := r.Tools()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, tool := range tools {
		found[tool.Name] = tool.Version
	}
	for _, name := range append(quick, "cosign", "sops") {
		if !strings.HasPrefix(found[name], "v") {
			t.Errorf("%s is not pinned: %v", name, found)
		}
	}
	_, err = r.Setup(t.Context(), []string{"nothing"})
	want(t, err, "tools pins no")
}
