package catalog

import "strings"

// Binary is one program compiled from a pinned Go module folder.
type Binary struct {
	// Name of the resulting file.
	Name string `json:"name"`
	// Module is the folder that holds go.mod and go.sum, relative to the declaring file.
	// "//" at its start means: relative to the repository root ("//" alone is the main module).
	Module string `json:"module"`
	// Package to build: "." or ./dir for our own main, or an import path of the pinned module.
	Package string `json:"package"`
	// Version for people and image tags, such as "v1.37.2".
	Version string   `json:"version,omitempty"`
	Tags    []string `json:"tags,omitempty"`
	// LDFlags are added to "-s -w -buildid=".
	LDFlags string `json:"ldflags,omitempty"`
	// CGO builds a static binary with the host's C compiler and CHeaders (Debian packages).
	CGO      bool     `json:"cgo,omitempty"`
	CHeaders []string `json:"cHeaders,omitempty"`
	// Links are further names of a multi-call binary.
	Links []string `json:"links,omitempty"`
	// CPUSeconds and MemoryMiB were measured on a cold build: the ETA and the number of
	// builds at a time come from them.
	CPUSeconds float64 `json:"cpuSeconds,omitempty"`
	MemoryMiB  int     `json:"memoryMiB,omitempty"`

	// Dir is the absolute folder of go.mod, set by the loader.
	Dir string `json:"-"`
}

// Image is an OCI image: made from scratch out of binaries, or pulled from a registry.
// Exactly one of Binaries and Registry is set.
type Image struct {
	// Name is the repository in the mirror: manifests say registry.orrery.internal/NAME.
	Name    string `json:"name"`
	Version string `json:"version"`
	// Binaries are put at /NAME of the image, their links beside them.
	Binaries []Binary `json:"binaries,omitempty"`
	// Registry is the full reference by digest of an image that is not built here, such as
	// docker.io/grafana/grafana@sha256:…, of an image or of an index of several platforms.
	// The mirror gets a copy as NAME under the same digest.
	Registry string `json:"registry,omitempty"`
	// Directories to make, with mode 0755 and the image's user as owner.
	Directories []string `json:"directories,omitempty"`
	// Entrypoint defaults to the first binary.
	Entrypoint []string `json:"entrypoint,omitempty"`
	// User is UID[:GID]; default 65532:65532.
	User string `json:"user,omitempty"`
}

// RegistryDigest is the digest that Registry names; "" for an image that is built here.
func (i Image) RegistryDigest() string {
	_, digest, _ := strings.Cut(i.Registry, "@")
	return digest
}

// Distribution is what a native node is made of (infra/native/distribution.yaml).
type Distribution struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"` // Distribution
	Kubernetes string   `json:"kubernetes"`
	Binaries   []Binary `json:"binaries"`
	// CNI plugins go into bin/cni.
	CNI []Binary `json:"cni"`
	// Sandbox is the pod sandbox (pause) image.
	Sandbox Image `json:"sandbox"`
}

// Component is one folder of the catalogue (component.yaml).
type Component struct {
	APIVersion  string   `json:"apiVersion"`
	Kind        string   `json:"kind"` // Component
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Namespace   string   `json:"namespace"`
	Needs       []string `json:"needs,omitempty"`
	Images      []Image  `json:"images,omitempty"`
	Render      Render   `json:"render"`
	// Secrets are generated once, inside the cluster, and never overwritten.
	Secrets []Secret `json:"secrets,omitempty"`
	// Ready names conditions beyond kstatus; see internal/check/smoke.
	Ready []string `json:"ready,omitempty"`
	// Smoke names the checks that `verify` runs; see internal/check/smoke.
	Smoke []string `json:"smoke,omitempty"`

	// Dir is the absolute folder of component.yaml, set by the loader.
	Dir string `json:"-"`
}

// Render says how manifests are made. Exactly one of Kustomize and Chart is set.
type Render struct {
	// Kustomize is the base folder, relative to the component. An overlay may lay a
	// folder overlays/<overlay>/<component>/kustomization.yaml over it.
	Kustomize string `json:"kustomize,omitempty"`
	// Chart is a chart folder, relative to the component. Its values.yaml may be
	// overlaid by overlays/<overlay>/<component>/values.yaml.
	Chart string `json:"chart,omitempty"`
	// CRDs is a folder whose *.yaml are applied as they stand, beside either: large schemas
	// take Kustomize a second and gain nothing from it.
	CRDs string `json:"crds,omitempty"`
}

// Secret is a Kubernetes Secret with generated content.
type Secret struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace,omitempty"` // the component's when empty
	// NKeys maps a key prefix to an nkey type ("user"): <prefix>.pub and <prefix>.seed are written.
	NKeys map[string]string `json:"nkeys,omitempty"`
	// PublicNKeys copies <key>.pub entries of another generated secret ("secret/prefix").
	PublicNKeys []string `json:"publicNKeys,omitempty"`
	// Passwords maps a key to a length in characters.
	Passwords map[string]int `json:"passwords,omitempty"`
}

// Overlay names the components of one target (infra/k8s/overlays/<name>/overlay.yaml).
type Overlay struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"` // Overlay
	Name       string   `json:"name"`
	Components []string `json:"components"`
	// Bootstrap are those of Components that the others stand on; `orrery bootstrap`
	// deploys just these.
	Bootstrap []string `json:"bootstrap,omitempty"`
	// Gate is the one of Components that every other needs, but for those of Bootstrap and
	// those that it needs itself. It is selected with whatever is selected.
	Gate string `json:"gate,omitempty"`

	Dir string `json:"-"`
}
