// Command orrery stands up a working model of a production platform on one machine.
package main

import (
	"os"

	"github.com/orrery-dev/orrery/internal/app"
)

func main() { os.Exit(app.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
