package kube

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/reference"
)

// containerLists are the fields of a pod that hold containers, wherever a pod is a part of
// an object.
var containerLists = []string{"containers", "initContainers", "ephemeralContainers"}

// pinned refuses images that no digest holds: neither images of the catalogue, which get
// theirs when they are put in, nor references by digest. A pod with one would run something
// else tomorrow, and in a guarded namespace it would not run at all.
func pinned(in RenderInput, o *unstructured.Unstructured) error {
	if o.GetKind() == "CustomResourceDefinition" {
		return nil // its "containers" is a schema
	}
	var errs []error
	check := func(path string, value any) {
		image, ok := value.(string)
		if !ok || strings.HasPrefix(image, mirror.Host+"/") {
			return
		}
		if _, err := reference.ParsePinned(image); err != nil {
			errs = append(errs, fmt.Errorf("%s%s: %w; or declare it under images in component.yaml and write %s/NAME", within(in, image), path, err, mirror.Host))
		}
	}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case []any:
			for i := range v {
				walk(fmt.Sprintf("%s[%d]", path, i), v[i])
			}
		case map[string]any:
			for _, k := range slices.Sorted(maps.Keys(v)) {
				at := strings.TrimPrefix(path+"."+k, ".")
				list, _ := v[k].([]any)
				for i, c := range list {
					c, _ := c.(map[string]any)
					if slices.Contains(containerLists, k) && c["image"] != nil {
						check(fmt.Sprintf("%s[%d].image", at, i), c["image"])
					}
					if volume, _ := c["image"].(map[string]any); k == "volumes" && volume["reference"] != nil {
						check(fmt.Sprintf("%s[%d].image.reference", at, i), volume["reference"])
					}
				}
				walk(at, v[k])
			}
		}
	}
	walk("", o.Object)
	return errors.Join(errs...)
}

// within names the file that text stands in, for a message: "FILE: ", or nothing when it was
// put together from several.
func within(in RenderInput, text string) string {
	root := filepath.Dir(filepath.Dir(in.Component.Dir))
	found := ""
	for _, dir := range []string{filepath.Join(in.Overlay.Dir, in.Component.Name), in.Component.Dir} {
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || found != "" {
				return nil // the message does without
			}
			switch filepath.Ext(path) {
			case ".yaml", ".yml", ".json", ".tpl":
			default:
				return nil
			}
			if data, err := os.ReadFile(path); err == nil && text != "" && bytes.Contains(data, []byte(text)) {
				if found, err = filepath.Rel(root, path); err != nil {
					found = path
				}
				found += ": "
			}
			return nil
		})
	}
	return found
}
