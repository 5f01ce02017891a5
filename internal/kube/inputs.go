package kube

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Tree identifies the text that manifests are rendered from.
type Tree string

// ReadTree reads every file below dir but Go source, which rendering does not look at: a
// kustomization may name files of any component, so that nothing less than all will do.
func ReadTree(dir string) (Tree, error) {
	h := sha256.New()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, ".go") {
			return err
		}
		// A link may lead anywhere; what it says is not what is read through it.
		if !d.Type().IsRegular() {
			return fmt.Errorf("%s is no regular file", filepath.Join(dir, path))
		}
		data, err := root.ReadFile(path)
		fmt.Fprintf(h, "%s\x00%d\x00", path, len(data))
		h.Write(data)
		return err
	})
	if err != nil {
		return "", err
	}
	return Tree(hex.EncodeToString(h.Sum(nil))), nil
}

// Inputs identifies all that [Render] makes its objects of: equal ones make equal objects.
// It is empty when that cannot be said, such as for a program without a build ID.
func (in RenderInput) Inputs(t Tree) string {
	program := buildID()
	if t == "" || program == "" {
		return ""
	}
	text, err := json.Marshal(map[string]any{
		"tree": t, "program": program, "component": in.Component.Name, "overlay": in.Overlay.Name,
		"facts": in.Facts, "images": imageReferences(in),
	})
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// buildID is that of the running program, which the Go linker makes of its content.
var buildID = sync.OnceValue(func() string {
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		return ""
	}
	defer f.Close()
	section := f.Section(".note.go.buildid")
	if section == nil {
		return ""
	}
	note, err := section.Data()
	const header = 16 // the lengths of name and text, the type, and the name "Go"
	if err != nil || len(note) <= header {
		return ""
	}
	return strings.TrimRight(string(note[header:]), "\x00")
})
