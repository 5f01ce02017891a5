// Command containerd is upstream's containerd with the plugins that a node uses, and one
// of our own: the snapshotter "layers", which shares unpacked layers with the other nodes
// of the machine (docs/adr/0015).
//
// Leaving out what is never used (file systems in blocks, tracing exporters, other
// operating systems) saves memory on every node.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/cmd/containerd/command"

	_ "github.com/orrery-dev/orrery/infra/native/containerd/layers"
)

func main() {
	if err := command.App().Run(context.Background(), os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "containerd:", err)
		os.Exit(1)
	}
}
