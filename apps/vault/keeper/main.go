// Command keeper looks after a Vault: initialises it, applies what it is made of, checks it, and
// takes and restores snapshots. See internal/keeper.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/orrery-dev/orrery/apps/vault/internal/keeper"
)

const usage = `usage: keeper [flags] run | check | deliver | snapshot > FILE | restore < FILE
`

func main() {
	var o keeper.Options
	var nodes string
	flag.StringVar(&o.Address, "vault", "https://vault:8200", "URL of Vault")
	flag.StringVar(&nodes, "nodes", "", "URLs of all its nodes, with commas between them; run asks the first to initialise")
	flag.StringVar(&o.CAFile, "ca", "", "authority of Vault's certificate")
	flag.StringVar(&o.TokenFile, "token", "/var/run/vault/token", "file with a service account's token for Vault")
	flag.StringVar(&o.Role, "role", "keeper", "role to log in to Vault with")
	flag.StringVar(&o.Config, "config", "/etc/vault", "folder of what is applied")
	flag.StringVar(&o.Secret, "secret", "vault-recovery", "Secret that recovery keys are kept in")
	flag.StringVar(&o.Listen, "listen", ":8080", "address of /readyz")
	flag.StringVar(&o.NATS, "nats", "", "URL of NATS, whose certificate -ca vouches for too; check tries a leased user there")
	flag.StringVar(&o.File, "file", "", "where deliver waits for what it has written to Vault")
	deadline := flag.Duration("deadline", 0, "how long check, snapshot and restore may take; default: 4 minutes")
	flag.Usage = func() { fmt.Fprint(os.Stderr, usage); flag.PrintDefaults() }
	flag.Parse()
	o.Nodes = strings.Split(nodes, ",")
	if nodes == "" {
		o.Nodes = []string{o.Address}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	if err := run(ctx, log, o, flag.Arg(0), *deadline); err != nil {
		fmt.Fprintln(os.Stderr, "keeper:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, log *slog.Logger, o keeper.Options, verb string, deadline time.Duration) error {
	k, err := keeper.New(log, o)
	if err != nil {
		return err
	}
	if verb == "run" {
		return k.Run(ctx)
	}
	if deadline == 0 {
		deadline = 4 * time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	switch verb {
	case "check":
		return k.Check(ctx, os.Stdout)
	case "deliver":
		return k.Deliver(ctx, os.Stdout)
	case "snapshot":
		return k.Snapshot(ctx, os.Stdout)
	case "restore":
		return k.Restore(ctx, os.Stdin)
	default:
		return fmt.Errorf("unknown verb %q\n%s", verb, usage)
	}
}
