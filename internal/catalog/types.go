package catalog

import (
	"slices"
	"strings"
	"time"
)

// Binary is one program compiled from a pinned Go module folder; or, with Folder or Debian, an
// archive (tar) of files that are taken as they are. Exactly one of Package, Folder and Debian
// is set.
type Binary struct {
	// Name of the resulting file.
	Name string `json:"name"`
	// Module is the folder that holds go.mod and go.sum, relative to the declaring file.
	// "//" at its start means: relative to the repository root ("//" alone is the main module).
	Module string `json:"module"`
	// Package to build: "." or ./dir for our own main, or an import path of the pinned module.
	Package string `json:"package,omitempty"`
	// Folder makes the file an archive of a folder of the pinned module.
	Folder *Folder `json:"folder,omitempty"`
	// Debian makes the file an archive of what is in packages of Debian.
	Debian *Debian `json:"debian,omitempty"`
	// Absent is a file in the folder of go.mod that lists modules that the program links and
	// never calls: it is compiled with stand-ins of them (internal/absent).
	Absent string `json:"absent,omitempty"`
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
	// ModuleSeconds are the CPUSeconds of all programs of that folder, set by the loader.
	ModuleSeconds float64 `json:"-"`
	// Stage is set by whoever builds for a plan: of builds that wait for each other, those of the
	// lowest go first.
	Stage int `json:"-"`
}

// Archive reports whether the file is an archive, which a node gets unpacked.
func (b Binary) Archive() bool { return b.Folder != nil || b.Debian != nil }

// Programs of the image: its archives are left out.
func (i Image) Programs() []Binary {
	return slices.DeleteFunc(slices.Clone(i.Binaries), Binary.Archive)
}

// Folder is a folder of another module, such as C source that stands beside Go's.
type Folder struct {
	// Path is like an import path: MODULE/folder. go.sum pins the module.
	Path string `json:"path"`
	// Without are folders and files below Path that are left out.
	Without []string `json:"without,omitempty"`
	// Flat takes the files out of their folders, which are left out.
	Flat bool `json:"flat,omitempty"`
}

// Debian is a program of Debian's with the libraries that it needs. Nothing of it is
// installed: the packages are unpacked into the archive.
type Debian struct {
	// Suite is the release, such as "bookworm".
	Suite string `json:"suite"`
	// Snapshot is when the archive had all of Packages, as snapshot.debian.org names it
	// ("20260901T000000Z"): where they are taken from once the archive has newer ones.
	Snapshot string `json:"snapshot"`
	// Program is the file of the program in its package. It becomes bin/NAME, where NAME is
	// the last part; its libraries become lib/….
	Program string `json:"program"`
	// Packages that hold the program and every library that it needs.
	Packages []DebianPackage `json:"packages"`
}

// DebianPackage is one package at one version.
type DebianPackage struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	// SHA256 of the package's file by architecture, as Debian names it ("amd64").
	SHA256 map[string]string `json:"sha256"`
}

// Image is an OCI image: made from scratch out of binaries, or pulled from a registry.
// Exactly one of Binaries and Registry is set.
type Image struct {
	// Name is the repository in the mirror: manifests say registry.orrery.internal/NAME.
	Name    string `json:"name"`
	Version string `json:"version"`
	// Binaries are put at /NAME of the image, their links beside them; what an archive has, below
	// /opt/NAME.
	Binaries []Binary `json:"binaries,omitempty"`
	// Nodes are programs and archives of the node distribution that are in it too, by their names;
	// the loader puts them before Binaries.
	Nodes []string `json:"nodes,omitempty"`
	// Registry is the full reference by digest of an image that is not built here, such as
	// docker.io/grafana/grafana@sha256:…, of an image or of an index of several platforms.
	// The mirror gets a copy as NAME under the same digest. One with a tag alone is not used
	// before `orrery lock pin` has written its digest into the lock.
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

// Unpinned reports whether nobody knows yet what the image is: see [Image.Registry].
func (i Image) Unpinned() bool { return i.Registry != "" && i.RegistryDigest() == "" }

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
	// Networks is what a node has on top of that for a network plugin, by the plugin's name
	// (network.plugin of the spec).
	Networks map[string]Network `json:"networks,omitempty"`

	// Archives of the network that was chosen with [Distribution.For].
	Archives []Binary `json:"-"`
}

// Network is what a network plugin is made of.
type Network struct {
	Binaries []Binary `json:"binaries,omitempty"`
	CNI      []Binary `json:"cni,omitempty"`
	// Archives are unpacked beside the programs, each into a folder of its name.
	Archives []Binary `json:"archives,omitempty"`
}

// For is the distribution of nodes with the given network plugin.
func (d Distribution) For(plugin string) Distribution {
	return d.with(d.Networks[plugin])
}

// Everything is the distribution with all that any network plugin needs.
func (d Distribution) Everything() Distribution {
	for _, name := range sortedKeys(d.Networks) {
		d = d.with(d.Networks[name])
	}
	return d
}

// with leaves the lists of d as they are: others hold them too.
func (d Distribution) with(n Network) Distribution {
	d.Binaries = slices.Concat(d.Binaries, n.Binaries)
	d.CNI = slices.Concat(d.CNI, n.CNI)
	d.Archives = slices.Concat(d.Archives, n.Archives)
	return d
}

// Files are all files of a node that are made here: programs, CNI plugins and archives.
func (d Distribution) Files() []Binary { return slices.Concat(d.Binaries, d.CNI, d.Archives) }

// Programs are those files of a node that are run: no archives.
func (d Distribution) Programs() []Binary { return slices.Concat(d.Binaries, d.CNI) }

// Component is one folder of the catalogue (component.yaml).
type Component struct {
	APIVersion  string   `json:"apiVersion"`
	Kind        string   `json:"kind"` // Component
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Namespace   string   `json:"namespace"`
	Needs       []string `json:"needs,omitempty"`
	// Profile is the smallest that has it, and that has all that it needs; default
	// [profile.Default]. What belongs to a smaller one is also built first.
	Profile string `json:"profile,omitempty"`
	// When says which environments have it; all when it is empty.
	When   When    `json:"when,omitzero"`
	Images []Image `json:"images,omitempty"`
	Render Render  `json:"render"`
	// Files of public repositories that Render uses: a kustomization names one as files/NAME,
	// and files/ is no folder of the repository.
	Files []File `json:"files,omitempty"`
	// Secrets are generated once, inside the cluster, and never overwritten.
	Secrets []Secret `json:"secrets,omitempty"`
	// AIO is how many slots for asynchronous I/O its pods take of the host's fs.aio-max-nr, all
	// of them together.
	AIO int `json:"aio,omitempty"`
	// Holds says in a few words which data is lost when the component is removed; then that has to be
	// asked for with --delete-data.
	Holds string `json:"holds,omitempty"`
	// Ready names conditions beyond kstatus; see internal/check/smoke.
	Ready []string `json:"ready,omitempty"`
	// Smoke names checks of internal/check/smoke that `verify` runs.
	Smoke []string `json:"smoke,omitempty"`
	// SmokeJob is what the component brings itself to be checked with.
	SmokeJob *SmokeJob `json:"smokeJob,omitempty"`

	// Dir is the absolute folder of component.yaml, set by the loader.
	Dir string `json:"-"`
}

// Checks are the names of all checks of the component: generic ones, then its own.
func (c Component) Checks() []string {
	if c.SmokeJob == nil {
		return c.Smoke
	}
	return slices.Concat(c.Smoke, c.SmokeJob.Checks)
}

// SmokeJob is a Job that checks a component from within: an image of the component prints a
// line of JSON for each check.
type SmokeJob struct {
	// Kustomize is the folder, relative to the component, whose kustomization makes the Job. An
	// overlay may lay a folder overlays/<overlay>/<component>/<kustomize> over it.
	Kustomize string `json:"kustomize"`
	// Checks are the names that the Job prints, all of them.
	Checks []string `json:"checks"`
	// Deadline of the container, from its start, such as "90s".
	Deadline string `json:"deadline"`
}

// Limits of the deadline of a [SmokeJob].
const (
	minDeadline = time.Second
	maxDeadline = 15 * time.Minute
)

// Time is the deadline.
func (j SmokeJob) Time() time.Duration {
	d, _ := time.ParseDuration(j.Deadline) // the loader has refused what cannot be read
	return d
}

// File is a file of a public repository, at one commit and with one content, such as the CRDs
// of an operator whose project publishes no module.
type File struct {
	// Name of it for the component: files/NAME.
	Name string `json:"name"`
	// URL begins with https:// and has Commit in it.
	URL string `json:"url"`
	// Commit of that repository, 40 hexadecimal digits.
	Commit string `json:"commit"`
	// SHA256 of the content, in hexadecimal.
	SHA256 string `json:"sha256"`
	// CRDs are applied as they stand, as those of [Render.CRDs]: no kustomization names them.
	CRDs bool `json:"crds,omitempty"`
}

// FilesDir is where a kustomization finds the [Component.Files].
const FilesDir = "files"

// When is what an environment must be like.
type When struct {
	// Network is the network.plugin that it must have.
	Network string `json:"network,omitempty"`
	// Agents is [AgentPods], or empty for wherever the network's agents are.
	Agents string `json:"agents,omitempty"`
	// Cluster is [OwnCluster], or empty for all clusters.
	Cluster string `json:"cluster,omitempty"`
}

// OwnCluster is a cluster that the environment made, and somebody else did not.
const OwnCluster = "own"

// AgentPods are agents of the network that are pods, and no services of the nodes.
const AgentPods = "pods"

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
	// NATSJWTs maps a prefix to what NATS in operator mode is to believe of a key: <prefix>.jwt is
	// written, and <prefix>.creds where that key is a user's of this secret.
	NATSJWTs map[string]NATSJWT `json:"natsJWTs,omitempty"`
	// Texts maps a key to a text in which ${KEY} is another entry of this secret: files for programs
	// that read what they need nowhere but in their configuration. ${PREFIX.publish} and
	// ${PREFIX.subscribe} are, as JSON, what a user of the component may do.
	Texts map[string]string `json:"texts,omitempty"`
	// Authority makes tls.crt, tls.key and ca.crt of a certificate authority.
	Authority *Authority `json:"authority,omitempty"`
}

// Authority is a certificate authority of the environment.
type Authority struct {
	// Issuers are the ClusterIssuers that sign with it. Certificates that name one are issued
	// before cert-manager is there.
	Issuers []string `json:"issuers"`
	// Domains are those that it may sign for, with all names below them.
	Domains []string `json:"domains"`
}

// NATSJWT says something of an nkey, signed. Keys are named "secret/prefix", as the component
// generates them.
type NATSJWT struct {
	// Of is the key that it is about; the one of the same prefix in the same secret when empty.
	Of string `json:"of,omitempty"`
	// By is the key that signs.
	By string `json:"by"`
	// SigningKeys of an operator or account may sign in its place.
	SigningKeys []string `json:"signingKeys,omitempty"`
	// SystemAccount of an operator.
	SystemAccount string `json:"systemAccount,omitempty"`
	// Account of a user.
	Account string `json:"account,omitempty"`
	// JetStream lets an account use it.
	JetStream bool `json:"jetStream,omitempty"`
	// Publish and Subscribe are the subjects that a user may use; none: all.
	Publish   []string `json:"publish,omitempty"`
	Subscribe []string `json:"subscribe,omitempty"`
}

// Refs are the keys that it names, beside Of.
func (j NATSJWT) Refs() []string {
	refs := append([]string{j.By}, j.SigningKeys...)
	for _, ref := range []string{j.SystemAccount, j.Account} {
		if ref != "" {
			refs = append(refs, ref)
		}
	}
	return refs
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
	// Charts are rendered beside a component's own manifests, by its name: what its project
	// publishes for clusters whose nodes are not made here. The overlay's values.yaml for that
	// component is the chart's.
	Charts map[string]ModuleChart `json:"charts,omitempty"`

	Dir string `json:"-"`
}

// ModuleChart is a chart inside a module.
type ModuleChart struct {
	// Module is a folder with go.mod and go.sum, from the repository's root with "//" before it.
	Module string `json:"module"`
	// Folder is the chart's folder in a module that Module requires, by its full path.
	Folder string `json:"folder"`

	// Dir is the absolute folder of go.mod, set by the loader.
	Dir string `json:"-"`
}
