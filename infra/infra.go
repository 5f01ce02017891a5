// Package infra holds what the program needs of this folder without a repository at hand: the
// catalogue is read, this is part of the program.
package infra

import _ "embed"

// K3dConfig is k3d-config.yaml, of which the k3d driver makes what it gives to k3d.
//
//go:embed k3d-config.yaml
var K3dConfig []byte
