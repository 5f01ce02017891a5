// Command vault runs a node of Vault with raft storage, unsealed by a key in a file, with the
// engines of internal/backends and no others. It is told where it is by flags.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/hashicorp/go-hclog"

	"github.com/orrery-dev/orrery/apps/vault/internal/server"
)

func main() {
	var o server.Options
	var join string
	flag.StringVar(&o.Node, "node", os.Getenv("POD_NAME"), "name of this node, the same for ever")
	flag.StringVar(&o.Data, "data", "/var/vault", "folder of its data")
	flag.StringVar(&o.SealKeyFile, "seal-key", "", "file with the key that unseals it")
	flag.StringVar(&o.Cluster, "cluster", "vault", "name of the cluster, in metrics")
	flag.StringVar(&o.Listen, "listen", ":8200", "address that clients are served at")
	flag.StringVar(&o.ListenCluster, "listen-cluster", ":8201", "address that the other nodes are served at")
	flag.StringVar(&o.ListenMetrics, "listen-metrics", ":8202", "address that Prometheus asks for /metrics")
	flag.StringVar(&o.Address, "address", "", "URL that clients and other nodes reach this node's -listen at")
	flag.StringVar(&o.ClusterAddress, "cluster-address", "", "URL that other nodes reach its -listen-cluster at")
	flag.StringVar(&o.CertFile, "tls-cert", "", "certificate to serve with; plain HTTP without")
	flag.StringVar(&o.KeyFile, "tls-key", "", "its private key")
	flag.StringVar(&o.CAFile, "tls-ca", "", "authority of the other nodes' certificates")
	flag.StringVar(&join, "join", "", "URLs of the other nodes' -listen, with commas between them")
	level := flag.String("log-level", "info", "trace, debug, info, warn or error")
	flag.Parse()
	if join != "" {
		o.Join = strings.Split(join, ",")
	}
	// Standard output is the audit device's.
	o.Log = hclog.New(&hclog.LoggerOptions{Level: hclog.LevelFromString(*level), Output: os.Stderr, JSONFormat: true})
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := server.Run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "vault:", err)
		os.Exit(1)
	}
}
