// Command generate makes the stand-ins of modules that a program leaves out, in a copy of the
// folder with its go.mod; see internal/absent.
//
//	cp -r infra/k8s/base/loki/source /tmp/loki
//	go run ./internal/absent/generate /tmp/loki absent.txt github.com/grafana/loki/v3/cmd/loki
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"github.com/orrery-dev/orrery/internal/absent"
)

func main() {
	tags := flag.String("tags", "", "build tags of the program, with commas between them")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: generate [-tags TAG,...] FOLDER LIST PACKAGE")
	}
	flag.Parse()
	if flag.NArg() != 3 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	o := absent.Options{Dir: flag.Arg(0), File: flag.Arg(1), Package: flag.Arg(2), Env: os.Environ()}
	if *tags != "" {
		o.Tags = strings.Split(*tags, ",")
	}
	unused, err := absent.Make(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, m := range unused {
		fmt.Fprintf(os.Stderr, "nothing of %s is used: its line in %s can go\n", m, o.File)
	}
}
