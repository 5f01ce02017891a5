// Command clang stands in front of the real one in nodes; see internal/clangcache.
package main

import (
	"fmt"
	"os"

	"github.com/orrery-dev/orrery/internal/clangcache"
)

func main() {
	status, err := clangcache.Main(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "orrery:", err)
	}
	os.Exit(status)
}
