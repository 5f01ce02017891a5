package lock

// FileName is where the lock is, at the root of the repository.
const FileName = "orrery.lock"

// APIVersion and Kind begin the file.
const (
	APIVersion = "orrery.dev/v1alpha1"
	Kind       = "Lock"
)

// Lock is the whole file.
type Lock struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// Platforms by "linux/amd64", "linux/arm64".
	Platforms map[string]Platform `json:"platforms"`
	// Pins are the digests of images that component.yaml names by tag, by that name: what a
	// registry answered when somebody asked ('orrery lock pin').
	Pins map[string]Pin `json:"pins,omitempty"`
	// Files of public repositories that components use, by "COMPONENT/NAME".
	Files map[string]File `json:"files,omitempty"`
}

// Pin is what a registry had under a tag.
type Pin struct {
	// Digest of what the tag named ("sha256:…"): an image, or an index of several platforms.
	Digest string `json:"digest"`
	// Seen is the day of the answer, "2026-11-30".
	Seen string `json:"seen"`
	// Platforms that it has, such as "linux/amd64".
	Platforms []string `json:"platforms,omitempty"`
	// Bytes to be pulled of the platform of the machine that asked.
	Bytes int64 `json:"bytes,omitempty"`
	// Labels of that image's configuration that say what it was made of
	// (org.opencontainers.image.{version,revision,source,licenses}).
	Labels map[string]string `json:"labels,omitempty"`
}

// Digests are the digests of all pins.
func (l Lock) Digests() map[string]string {
	digests := map[string]string{}
	for name, p := range l.Pins {
		digests[name] = p.Digest
	}
	return digests
}

// File is a file of a public repository. All of it is written by a person, in component.yaml;
// the lock lists it so that one file says what an environment is made of.
type File struct {
	URL    string `json:"url"`
	Commit string `json:"commit"`
	SHA256 string `json:"sha256"`
}

// Platform is what one operating system and processor gets.
type Platform struct {
	// Binaries by name: those of the node distribution and those of images.
	Binaries map[string]Binary `json:"binaries"`
	// Images by name.
	Images map[string]Image `json:"images"`
	// Omitted says why an entry is missing, by "binary NAME" and "image NAME": what could not
	// be built for this platform where the lock was written. It is compared with nothing, and
	// said so wherever it is used.
	Omitted map[string]string `json:"omitted,omitempty"`
}

// Kinds of a [Binary] that is no program.
const (
	KindFolder = "folder" // an archive of a folder of a module
	KindDebian = "debian" // an archive of a program of Debian's, with its libraries
)

// Binary is one program, or an archive that nodes get unpacked. All fields but SHA256 and
// CPUSeconds are inputs.
type Binary struct {
	// Kind is empty for a program.
	Kind string `json:"kind,omitempty"`
	// Module is PATH@VERSION, or the path alone for a module of this repository.
	Module string `json:"module"`
	// Sum is the module's line of go.sum ("h1:…"); empty for a module of this repository.
	Sum string `json:"sum,omitempty"`
	// Package is the main package; of an archive, the folder or the program.
	Package string `json:"package"`
	// Go is the toolchain, such as "go1.26.8"; empty for an archive.
	Go string `json:"go,omitempty"`
	// Flags are those of go build and the settings that decide bytes.
	Flags []string `json:"flags,omitempty"`
	// Packages of Debian that an archive was made of: "NAME VERSION sha256:…", the digest being
	// that of the package's file.
	Packages []string `json:"packages,omitempty"`
	// Links are further names of the program, which images hold too.
	Links []string `json:"links,omitempty"`
	// Pins hashes go.mod and go.sum, which fix every module that is linked in; empty when
	// none is ("sha256:…").
	Pins string `json:"pins,omitempty"`
	// Tree hashes the source of this repository that is compiled in ("sha256:…").
	Tree string `json:"tree,omitempty"`
	// CTools are the compiler, linker and packages of a binary that has C in it. They come
	// from the machine's distribution and cannot be pinned.
	CTools []string `json:"cTools,omitempty"`
	// SHA256 of the file, in hexadecimal.
	SHA256 string `json:"sha256"`
	// SBOM is the digest of the bill of materials ("sha256:…") of a program of the node
	// distribution; those of images are in their image's.
	SBOM string `json:"sbom,omitempty"`
	// CPUSeconds (user + system) that a build with an empty cache takes.
	CPUSeconds float64 `json:"cpuSeconds,omitempty"`
}

// Image is one OCI image.
type Image struct {
	Version     string   `json:"version"`
	Binaries    []string `json:"binaries"` // names, in the order of layers
	User        string   `json:"user,omitempty"`
	Entrypoint  []string `json:"entrypoint,omitempty"`
	Directories []string `json:"directories,omitempty"`
	// Digest of the manifest ("sha256:…").
	Digest string `json:"digest"`
	// SBOM is the digest of the bill of materials ("sha256:…").
	SBOM string `json:"sbom,omitempty"`
}
