// Command argocd is two parts of Argo CD, the application controller and the repo server, without
// the rest: no API server, no UI, no Redis. Redis is where these share with the API server what they
// have found out; where that is not, each keeps its own in memory, as Argo CD's own second level does.
// Sources are plain manifests, in OCI artifacts or in git, which is executed and is apps/git here. Nothing executes
// helm or kustomize.
//
// Start reading at main; controller.go and repo.go are the two parts.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	log "github.com/sirupsen/logrus"

	cacheutil "github.com/argoproj/argo-cd/v3/util/cache"
)

// How long what was found out is kept: it bounds the memory, and costs a second look.
const kept = time.Hour

func main() {
	log.SetFormatter(&log.JSONFormatter{})
	log.SetLevel(log.WarnLevel)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := start(ctx, os.Args[1:]); err != nil {
		log.Error("argocd ends: ", err)
		os.Exit(1)
	}
}

func start(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("which part? controller or repo-server")
	}
	switch args[0] {
	case "controller":
		return runController(ctx, args[1:])
	case "repo-server":
		return runRepo(ctx, args[1:])
	}
	return fmt.Errorf("unknown part %q: controller or repo-server", args[0])
}

func memory() *cacheutil.Cache { return cacheutil.NewCache(cacheutil.NewInMemoryCache(kept)) }
