package sbom

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	validator "github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/image"
)

func inspection() image.Inspection {
	hash := strings.Repeat("a", 64)
	return image.Inspection{
		Built:    image.Built{Name: "server", Version: "v1.2.3", Digest: "sha256:" + hash, Size: 10},
		Platform: "linux/amd64", User: "65532:65532", Entrypoint: []string{"/server"},
		Layers: []image.LayerInfo{
			{Digest: "sha256:" + hash, Files: []image.FileInfo{{Path: "/etc", Type: "directory"}, {Path: "/etc/passwd", Type: "file", SHA256: hash}}},
			{Digest: "sha256:" + hash, Files: []image.FileInfo{{Path: "/server", Type: "file", SHA256: strings.Repeat("b", 64)}, {Path: "/srv", Type: "link", Link: "server"}}},
		},
		Programs: []build.ProgramInfo{{
			Path: "/server", Package: "example.org/server/cmd/server", Go: "go1.26.8",
			Main: build.Module{Path: "example.org/server", Version: "v1.2.3", Sum: "h1:x"},
			Modules: []build.Module{
				{Path: "example.org/Lib", Version: "v2.0.0+incompatible", Sum: "h1:y"},
				{Path: "example.org/fork", Version: "v0.1.0", Sum: "h1:z", Replaces: "example.org/gone@v0.0.1"},
				{Path: "./stub", Replaces: "example.org/stub@v1.0.0"},
			},
			Settings: []string{"-trimpath=true", "CGO_ENABLED=0"},
		}},
	}
}

var licences = map[string]string{"std": "BSD-3-Clause", "example.org/server": "Apache-2.0", "example.org/Lib": "MIT AND Apache-2.0", "./stub": "Apache-2.0"}

func TestValidCycloneDX(t *testing.T) {
	doc, err := CycloneDX(inspection(), licences)
	if err != nil {
		t.Fatal(err)
	}
	valid := cycloneDXSchema(t)
	if valid == nil {
		t.Skip("the schema of CycloneDX cannot be downloaded")
	}
	if err := valid(doc); err != nil {
		t.Errorf("%v\n%s", err, doc)
	}
	if valid(bytes.Replace(doc, []byte(`"type": "library"`), []byte(`"type": "book"`), 1)) == nil {
		t.Error("the schema accepts anything")
	}
}

// cycloneDXSchema is the standard's own, from a module whose hash is in the checksum database;
// nil when it cannot be downloaded.
func cycloneDXSchema(t *testing.T) func(doc []byte) error {
	t.Helper()
	// Outside of our module: only the files of that one are wanted.
	cmd := exec.Command("go", "mod", "download", "-json", "github.com/CycloneDX/cyclonedx-go@v0.10.0")
	cmd.Dir = t.TempDir()
	out, err := cmd.Output()
	if err != nil {
		t.Logf("the schema of CycloneDX cannot be downloaded: %v: %s", err, out)
		return nil
	}
	var m struct{ Dir string }
	if err := json.Unmarshal(out, &m); err != nil {
		t.Fatal(err)
	}
	schemas := filepath.Join(m.Dir, "schema")
	c := validator.NewCompiler()
	c.UseLoader(local{schemas})
	schema, err := c.Compile("http://cyclonedx.org/schema/bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return func(doc []byte) error {
		v, err := validator.UnmarshalJSON(bytes.NewReader(doc))
		if err != nil {
			t.Fatal(err)
		}
		return schema.Validate(v)
	}
}

// local answers for cyclonedx.org with the files of a folder.
type local struct{ dir string }

func (l local) Load(url string) (any, error) {
	name := url[strings.LastIndexByte(url, '/')+1:]
	// The module calls it by another name than the standard does.
	name = strings.Replace(name, "jsf-0.82.schema.json", "jsf-0.82.schemax.json", 1)
	return validator.FileLoader{}.Load("file://" + filepath.Join(l.dir, name))
}

func TestCycloneDX(t *testing.T) {
	doc, err := CycloneDX(inspection(), licences)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"bom-ref": "program:/server"`, `"content": "` + strings.Repeat("b", 64), `pkg:golang/example.org/server@v1.2.3#cmd/server`,
		`pkg:golang/example.org/Lib@v2.0.0%2Bincompatible`, `"expression": "MIT AND Apache-2.0"`, `"value": "example.org/gone@v0.0.1"`,
		`"bom-ref": "folder:./stub"`, `"bom-ref": "file:/etc/passwd"`, `pkg:golang/std@1.26.8`, `"serialNumber": "urn:uuid:`,
	} {
		if !strings.Contains(string(doc), want) {
			t.Errorf("it lacks %s", want)
		}
	}
	if strings.Contains(string(doc), "/srv") {
		t.Error("a link is no component")
	}
	other := inspection()
	slices.Reverse(other.Programs[0].Modules)
	if again, err := CycloneDX(other, licences); err != nil || !bytes.Equal(doc, again) {
		t.Errorf("another order of modules gives another document (%v)", err)
	}
}
