package kube

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
)

// kustomize builds a folder of the component, or the overlay's folder for it when there is
// one (it refers to the base by itself): layer below that of the component's name.
func kustomize(in RenderInput, folder, layer string) ([]*unstructured.Unstructured, error) {
	dir := filepath.Join(in.Component.Dir, filepath.FromSlash(folder))
	if in.Overlay.Dir != "" {
		over := filepath.Join(in.Overlay.Dir, in.Component.Name, filepath.FromSlash(layer))
		if _, err := os.Stat(filepath.Join(over, "kustomization.yaml")); err == nil {
			dir = over
		} else if !os.IsNotExist(err) {
			return nil, err
		}
	}
	opts := krusty.MakeDefaultOptions()
	opts.LoadRestrictions = types.LoadRestrictionsNone // an overlay refers to files of the base
	opts.PluginConfig = types.DisabledPluginConfig()
	files, err := withFiles(in)
	if err != nil {
		return nil, err
	}
	built, err := krusty.MakeKustomizer(opts).Run(files, dir)
	if err != nil {
		return nil, fmt.Errorf("kustomize build %s: %w", short(in, dir), err)
	}
	var objs []*unstructured.Unstructured
	for _, r := range built.Resources() {
		data, err := r.MarshalJSON()
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", short(in, dir), r.CurId(), err)
		}
		found, err := parseJSON(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", short(in, dir), r.CurId(), err)
		}
		objs = append(objs, found...)
	}
	return objs, nil
}

// short names a file as base/<component>/… or overlays/<overlay>/….
func short(in RenderInput, path string) string {
	for _, d := range []string{in.Component.Dir, in.Overlay.Dir} {
		up := filepath.Dir(filepath.Dir(d))
		if r, err := filepath.Rel(up, path); d != "" && err == nil && !strings.HasPrefix(r, "..") {
			return filepath.ToSlash(r)
		}
	}
	return path
}
