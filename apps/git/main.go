// Command git is as much of git as Argo CD needs: the calls that its repo server makes, and the server
// that they ask. Both are go-git's; what neither needs is refused by name.
//
// Start reading at main; client.go has the calls, serve.go the server.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// branch is the one that there is.
const branch = "main"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "git:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 && args[0] == "serve" {
		return serve(ctx, args[1:])
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	return call(ctx, dir, args, out)
}

// errUnknown is wrapped by what says that a call is none of those that Argo CD makes.
var errUnknown = errors.New("this git has only what Argo CD's repo server calls: fetch, cat-file -t, checkout --force, clean -ffdx, rev-parse HEAD")
