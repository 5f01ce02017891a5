// Command k3s is what k3d starts in a node of Orrery; see internal/driver/k3d/node.
package main

import (
	"os"

	"github.com/orrery-dev/orrery/internal/driver/k3d/node"
)

func main() { os.Exit(node.Main(os.Args[1:], os.Stdout)) }
