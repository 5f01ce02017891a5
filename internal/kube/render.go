package kube

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/mirror"
)

// Labels and annotations that Orrery gives and reads.
const (
	// LabelManagedBy and LabelComponent are on every rendered object.
	LabelManagedBy = "app.kubernetes.io/managed-by" // "orrery"
	LabelComponent = "orrery.dev/component"
	// LabelEnvironment is on what is applied to a cluster that is shared ([WithOwnership]).
	LabelEnvironment = "orrery.dev/environment"
	// AnnotationOptional, "true", defers an object while its kind does not exist.
	AnnotationOptional = "orrery.dev/optional"
	// AnnotationReady names a condition that must be True before an object counts as ready:
	// for kinds whose controller says so in another way than kstatus knows.
	AnnotationReady = "orrery.dev/ready"
	// AnnotationReplace, when its value changes, has an object deleted, with all that it made, before
	// it is applied: where old and new pods cannot work beside each other. Claims of volumes stay.
	AnnotationReplace = "orrery.dev/replace"
	// AnnotationSubstitute, "false", leaves ${…} in an object alone.
	AnnotationSubstitute = "orrery.dev/substitute"
)

// Facts of the environment that manifests may use: as ${clusterDNS} in the text of any
// object (only the textual ones), as .Values.orrery.clusterDNS in charts.
type Facts struct {
	Environment   string
	ClusterDomain string // such as cluster.local
	ClusterDNS    string // address of the DNS Service
	PodCIDR       string
	ServiceCIDR   string
	Durability    string // full | fast
	Servers       int
	Nodes         int // servers and agents
	Zones         int
	Egress        bool // pods have a route out of the cluster; "true" or "false" in text
	// AllowedImages are the references by digest that pods of guarded namespaces may run; a
	// line each in text.
	AllowedImages []string
	// ImageAction is what becomes of other ones: Deny (the default) or Warn, as in
	// validationActions of a ValidatingAdmissionPolicyBinding.
	ImageAction string
}

func (f Facts) text() map[string]string {
	return map[string]string{
		"environment": f.Environment, "clusterDomain": f.ClusterDomain, "clusterDNS": f.ClusterDNS,
		"podCIDR": f.PodCIDR, "serviceCIDR": f.ServiceCIDR, "durability": f.Durability,
		"egress":        strconv.FormatBool(f.Egress),
		"allowedImages": strings.Join(f.AllowedImages, "\n"),
		"imageAction":   cmp.Or(f.ImageAction, "Deny"),
	}
}

func (f Facts) values() map[string]any {
	v := map[string]any{"servers": f.Servers, "nodes": f.Nodes, "zones": f.Zones}
	for name, text := range f.text() {
		v[name] = text
	}
	return v
}

// RenderInput is all that rendering depends on, besides the files of the component and
// of the overlay.
type RenderInput struct {
	Component catalog.Component
	Overlay   catalog.Overlay
	Facts     Facts
	// Chart holds the files of the chart that the overlay adds to the component, by name.
	Chart map[string][]byte
	// Files are those that the component takes from public repositories, by name.
	Files map[string][]byte
	// Images maps the name of an image to its full reference. When nil, NAME:VERSION of
	// the component's own images is put, which says what without needing a build.
	Images map[string]string
}

// Render makes the objects of a component, in the order in which they are applied. The
// result is a pure function of the input and the files: same bytes every time. Errors
// name the component and the file or object.
func Render(in RenderInput) ([]*unstructured.Unstructured, error) {
	objs, err := render(in)
	if err != nil {
		return nil, fmt.Errorf("component %s: %w", in.Component.Name, err)
	}
	return objs, nil
}

func render(in RenderInput) ([]*unstructured.Unstructured, error) {
	if err := lackingFiles(in); err != nil {
		return nil, err
	}
	var objs []*unstructured.Unstructured
	var err error
	switch r := in.Component.Render; {
	case r.Kustomize != "" && r.Chart != "":
		return nil, errors.New("render: names both kustomize and chart; give one")
	case r.Kustomize != "":
		objs, err = kustomize(in, r.Kustomize, "")
	case r.Chart != "":
		objs, err = chart(in)
	default:
		return nil, errors.New("render: names neither kustomize nor chart; give one")
	}
	if err != nil {
		return nil, err
	}
	if added, ok := in.Overlay.Charts[in.Component.Name]; ok {
		more, err := moduleChart(in, added)
		if err != nil {
			return nil, err
		}
		objs = append(objs, more...)
	}
	crds, err := asTheyStand(in.Component)
	if err != nil {
		return nil, err
	}
	objs = append(objs, crds...)
	if crds, err = pinnedCRDs(in); err != nil {
		return nil, err
	}
	objs = append(objs, crds...)
	if len(objs) == 0 {
		return nil, errors.New("renders no object; a component deploys at least one")
	}
	custom := definedKinds(objs)
	var errs []error
	first := map[id]bool{}
	for _, o := range objs {
		if err := finish(in, o, custom); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", refOf(o), err))
		}
		if problems := checkRules(o); len(problems) > 0 {
			where := cmp.Or(fileOf(in, o), refOf(o).String())
			for _, err := range problems {
				errs = append(errs, fmt.Errorf("%s: %w", where, err))
			}
		}
		if i := refOf(o).id(); first[i] {
			errs = append(errs, fmt.Errorf("%s is rendered twice; one would overwrite the other", refOf(o)))
		} else {
			first[i] = true
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	sortObjects(objs)
	return objs, nil
}

// asTheyStand reads the component's folder of CRDs.
func asTheyStand(c catalog.Component) ([]*unstructured.Unstructured, error) {
	if c.Render.CRDs == "" {
		return nil, nil
	}
	dir := filepath.Join(c.Dir, c.Render.CRDs)
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("render.crds: %s has no *.yaml", dir)
	}
	var all []*unstructured.Unstructured
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		objs, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, o := range objs {
			if o.GetKind() != "CustomResourceDefinition" {
				return nil, fmt.Errorf("%s: a %s is no CustomResourceDefinition; list it in the kustomization", file, o.GetKind())
			}
		}
		all = append(all, objs...)
	}
	return all, nil
}

// finish turns what a tool rendered into what is applied.
func finish(in RenderInput, o *unstructured.Unstructured, custom map[schema.GroupKind]bool) error {
	gk := o.GroupVersionKind().GroupKind()
	namespaced, isCustom := custom[gk]
	if !isCustom {
		namespaced = !clusterKinds[gk]
	}
	switch {
	case !namespaced:
		o.SetNamespace("")
	case o.GetNamespace() == "":
		o.SetNamespace(in.Component.Namespace)
	}
	// Generators leave these behind; they are the server's to write.
	unstructured.RemoveNestedField(o.Object, "status")
	unstructured.RemoveNestedField(o.Object, "metadata", "creationTimestamp")
	labels := o.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[LabelManagedBy], labels[LabelComponent] = FieldManager, in.Component.Name
	o.SetLabels(labels)
	if err := pinned(in, o); err != nil {
		return err
	}
	s := substitution{images: imageReferences(in)}
	if o.GetAnnotations()[AnnotationSubstitute] != "false" {
		s.facts = in.Facts.text()
	}
	o.Object = s.value(o.Object).(map[string]any)
	if len(s.errs) > 0 {
		return errors.Join(s.errs...)
	}
	return encodeStringData(o)
}

// encodeStringData moves the write-only stringData of a Secret to data: the server would
// do so, but then no later apply could be seen to change nothing.
func encodeStringData(o *unstructured.Unstructured) error {
	if o.GetKind() != "Secret" || o.GetAPIVersion() != "v1" {
		return nil
	}
	text, found, err := unstructured.NestedStringMap(o.Object, "stringData")
	if err != nil {
		return fmt.Errorf("stringData: %w", err)
	}
	if !found {
		return nil
	}
	data, _, err := unstructured.NestedMap(o.Object, "data")
	if err != nil {
		return fmt.Errorf("data: %w", err)
	}
	if data == nil {
		data = map[string]any{}
	}
	for k, v := range text {
		data[k] = base64.StdEncoding.EncodeToString([]byte(v))
	}
	delete(o.Object, "stringData")
	return unstructured.SetNestedMap(o.Object, data, "data")
}

// parse reads the objects of a YAML stream. Lists are taken apart, empty documents left out.
func parse(text []byte) ([]*unstructured.Unstructured, error) {
	var objs []*unstructured.Unstructured
	r := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			return objs, nil
		}
		if err != nil {
			return nil, err
		}
		data, err := yaml.YAMLToJSONStrict(doc)
		if err != nil {
			return nil, err
		}
		if string(data) == "null" || string(data) == "{}" {
			continue
		}
		found, err := parseJSON(data)
		if err != nil {
			return nil, err
		}
		objs = append(objs, found...)
	}
}

func parseJSON(data []byte) ([]*unstructured.Unstructured, error) {
	o := &unstructured.Unstructured{}
	if err := o.UnmarshalJSON(data); err != nil {
		return nil, fmt.Errorf("not a Kubernetes object: %w", err)
	}
	if !o.IsList() {
		if o.GetName() == "" {
			return nil, fmt.Errorf("a %s has no metadata.name", o.GetKind())
		}
		return []*unstructured.Unstructured{o}, nil
	}
	var objs []*unstructured.Unstructured
	items, _, err := unstructured.NestedSlice(o.Object, "items")
	if err != nil {
		return nil, fmt.Errorf("items of a %s: %w", o.GetKind(), err)
	}
	for _, item := range items {
		data, err := json.Marshal(item)
		if err != nil {
			return nil, err
		}
		found, err := parseJSON(data)
		if err != nil {
			return nil, err
		}
		objs = append(objs, found...)
	}
	return objs, nil
}

// Hash identifies a rendered set: equal sets have equal hashes, whatever their order.
func Hash(objs []*unstructured.Unstructured) string {
	sorted := append([]*unstructured.Unstructured(nil), objs...)
	sortObjects(sorted)
	h := sha256.New()
	for _, o := range sorted {
		// encoding/json sorts the keys of maps.
		if err := json.NewEncoder(h).Encode(o.Object); err != nil {
			panic("kube: an unstructured object cannot be encoded: " + err.Error())
		}
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// Manifest writes objects as a YAML stream, as `kubectl apply -f` reads it; each begins
// with "---".
func Manifest(objs []*unstructured.Unstructured) ([]byte, error) {
	var out bytes.Buffer
	for _, o := range objs {
		text, err := yaml.Marshal(o.Object)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", refOf(o), err)
		}
		fmt.Fprintf(&out, "---\n%s", text)
	}
	return out.Bytes(), nil
}

func imageReferences(in RenderInput) map[string]string {
	refs := map[string]string{}
	for _, image := range in.Component.Images {
		ref, ok := in.Images[image.Name]
		if in.Images == nil {
			ref, ok = mirror.Host+"/"+image.Name+":"+image.Version, true
		}
		if ok {
			refs[image.Name] = ref
		} else {
			refs[image.Name] = "" // declared, but nobody built it
		}
	}
	return refs
}

func sortedNames[V any](m map[string]V) string {
	if len(m) == 0 {
		return "(none)"
	}
	return strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}
