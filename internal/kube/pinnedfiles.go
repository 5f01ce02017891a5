package kube

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/orrery-dev/orrery/internal/catalog"
)

// pinnedFiles is the disk with the files of public repositories laid over it, each in the folder
// files/ of its component, where no folder is: kustomizations name them like their own.
type pinnedFiles struct {
	filesys.FileSystem
	dir   filesys.ConfirmedDir // of the files
	files map[string][]byte    // by name
}

// withFiles is the file system that a component is rendered from.
func withFiles(in RenderInput) (filesys.FileSystem, error) {
	disk := filesys.MakeFsOnDisk()
	if len(in.Component.Files) == 0 {
		return disk, nil
	}
	component, err := filepath.EvalSymlinks(in.Component.Dir)
	if err != nil {
		return nil, err
	}
	return pinnedFiles{disk, filesys.ConfirmedDir(filepath.Join(component, catalog.FilesDir)), in.Files}, nil
}

// named is the content of a pinned file. ok: path is in their folder.
func (p pinnedFiles) named(path string) (data []byte, name string, ok bool) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, "", false
	}
	// A kustomization reaches a component by whatever way leads to it.
	dir, name := filepath.Split(path)
	up := filepath.Clean(dir)
	if filepath.Base(up) != catalog.FilesDir {
		return nil, "", false
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(up))
	if err != nil || filepath.Join(parent, catalog.FilesDir) != p.dir.String() {
		return nil, "", false
	}
	return p.files[name], name, true
}

// ReadFile implements [filesys.FileSystem].
func (p pinnedFiles) ReadFile(path string) ([]byte, error) {
	data, name, ok := p.named(path)
	switch {
	case !ok:
		return p.FileSystem.ReadFile(path)
	case data == nil:
		return nil, fmt.Errorf("%s is none of the files that component.yaml lists (files: %s): %w", name, sortedNames(p.files), os.ErrNotExist)
	}
	return data, nil
}

// Exists implements [filesys.FileSystem].
func (p pinnedFiles) Exists(path string) bool {
	if data, _, ok := p.named(path); ok {
		return data != nil
	}
	return p.FileSystem.Exists(path)
}

// IsDir implements [filesys.FileSystem].
func (p pinnedFiles) IsDir(path string) bool {
	if _, _, ok := p.named(path); ok {
		return false
	}
	return p.FileSystem.IsDir(path)
}

// CleanedAbs implements [filesys.FileSystem].
func (p pinnedFiles) CleanedAbs(path string) (filesys.ConfirmedDir, string, error) {
	if data, name, ok := p.named(path); ok && data != nil {
		return p.dir, name, nil
	}
	return p.FileSystem.CleanedAbs(path)
}

// pinnedCRDs are the objects of those files that are applied as they stand.
func pinnedCRDs(in RenderInput) (all []*unstructured.Unstructured, err error) {
	for _, f := range in.Component.Files {
		if !f.CRDs {
			continue
		}
		objs, err := parse(in.Files[f.Name])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.URL, err)
		}
		for _, o := range objs {
			if o.GetKind() != "CustomResourceDefinition" {
				return nil, fmt.Errorf("%s: a %s is no CustomResourceDefinition; list the file in the kustomization as %s/%s, without crds",
					f.URL, o.GetKind(), catalog.FilesDir, f.Name)
			}
		}
		all = append(all, objs...)
	}
	return all, nil
}

// lackingFiles names those files of a component that whoever renders it has not got.
func lackingFiles(in RenderInput) error {
	var lacking []string
	for _, f := range in.Component.Files {
		if in.Files[f.Name] == nil {
			lacking = append(lacking, f.Name)
		}
	}
	if len(lacking) > 0 {
		return fmt.Errorf("files: %s are not here", strings.Join(lacking, ", "))
	}
	return nil
}
