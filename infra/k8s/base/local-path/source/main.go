// Command local-path makes volumes out of folders of the node that it runs on: it is the
// provisioner of the storage class local-path, one on every node.
//
// The scheduler chooses a node for a claim and writes it on the claim; the program on that
// node sees it, makes the folder and then the volume, and removes both when a released
// volume is to be deleted. Nothing is started and nothing polled, so a volume takes a
// fraction of a second. It uses the standard library alone.
//
// Start reading at provision.go; watch.go sees what changes, api.go speaks to the API.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(ctx, os.Args[1:], log); err != nil {
		log.Error("local-path ends", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, log *slog.Logger) error {
	flags := flag.NewFlagSet("local-path", flag.ContinueOnError)
	node := flags.String("node", os.Getenv("NODE_NAME"), "node that this runs on")
	folder := flags.String("folder", "", "folder that holds the folders of all volumes, the same here and on the node")
	listen := flags.String("listen", "", "address of /metrics; empty: nowhere")
	name := flags.String("provisioner", "", "name of the provisioner in storage classes")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *node == "" || *folder == "" || *name == "" || flags.NArg() > 0 {
		return errors.New("-node, -folder and -provisioner are needed, and nothing beside -listen")
	}
	api, err := inCluster()
	if err != nil {
		return err
	}
	folders, err := openFolders(*folder)
	if err != nil {
		return err
	}
	defer folders.root.Close()
	p := &provisioner{api: api, folders: folders, node: *node, name: *name, log: log}
	var wg sync.WaitGroup
	if *listen != "" {
		l, err := net.Listen("tcp", *listen)
		if err != nil {
			return fmt.Errorf("-listen: %w", err)
		}
		wg.Go(func() {
			if err := p.metrics.serve(ctx, l); err != nil { // volumes are made all the same
				log.Warn("metrics", "error", err)
			}
		})
	}
	wg.Go(func() { watch(ctx, api, "/api/v1/persistentvolumeclaims", p.metrics.counting(p.claim), log) })
	wg.Go(func() { watch(ctx, api, "/api/v1/persistentvolumes", p.metrics.counting(p.volume), log) })
	log.Info("local-path runs", "node", *node, "folder", *folder)
	wg.Wait()
	return nil
}

func inCluster() (*api, error) {
	const account = "/var/run/secrets/kubernetes.io/serviceaccount/"
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, errors.New("KUBERNETES_SERVICE_HOST and _PORT are not set: this runs in a pod")
	}
	ca, err := os.ReadFile(account + "ca.crt")
	if err != nil {
		return nil, fmt.Errorf("the API's authority: %w", err)
	}
	return newAPI("https://"+joinHostPort(host, port), ca, account+"token")
}
