package driver

import "path/filepath"

// Distributor is implemented by drivers whose nodes run the programs of infra/native.
type Distributor interface {
	// Dist is where they are put: the mirror's program before Prepare, the rest before Ensure.
	Dist() Dist
	// Installed notes programs and unpacked archives, by their names below Dist such as
	// "bin/kubelet", once they were verified: from then on nothing else is started in their place.
	Installed(names ...string) error
}

// Dist is the folder with the node distribution of one environment.
type Dist string

// Program is the path of a program. Its further names are links beside it.
func (d Dist) Program(name string) string { return filepath.Join(string(d), "bin", name) }

// CNI is the path of a plugin that connects pods.
func (d Dist) CNI(name string) string { return filepath.Join(string(d), "bin", "cni", name) }

// Archive is the path of a packed archive, and Unpacked the folder that nodes have of it.
func (d Dist) Archive(name string) string { return filepath.Join(string(d), ".archives", name) }

// Unpacked is the folder with what is in an archive.
func (d Dist) Unpacked(name string) string { return filepath.Join(string(d), name) }

// Objects is the folder that nodes share what they compile in.
func (d Dist) Objects() string { return filepath.Join(string(d), "objects") }

// Attestations is the folder with what was signed about the programs.
func (d Dist) Attestations() string { return filepath.Join(string(d), "attestations") }
