// Command kms encrypts what Kubernetes keeps in etcd with a key that never leaves Vault: it is a plugin
// of KMS v2 (KEP-3299) in front of Vault's transit engine, one beside each API server, which asks it on
// a Unix socket. The key's versions are Vault's, so that rotating there is all that a rotation takes.
//
// Start reading at main; transit.go has what is asked of Vault.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"
	kmsapi "k8s.io/kms/apis/v2"
	"k8s.io/kms/pkg/service"
)

func main() {
	var t transit
	socket := flag.String("listen", "/run/kms/vault.sock", "Unix `socket` for the API server; made for this user alone")
	address := flag.String("vault", "", "`URL` of Vault")
	ca := flag.String("ca", "", "`file` with the authority of its certificate; else those of the system")
	flag.StringVar(&t.tokenFile, "token", "", "`file` with a token for Vault; read for each request, so that an agent can renew it")
	flag.StringVar(&t.mount, "mount", "transit", "`path` of the transit engine")
	flag.StringVar(&t.key, "key", "", "`name` of the key")
	flag.Parse()
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := t.connect(*address, *ca)
	if err == nil {
		err = serve(ctx, log, *socket, &t)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "kms:", err)
		os.Exit(1)
	}
}

// serve answers at the socket until ctx ends. A Vault that is away is no reason to end: the API server
// asks again, and reads what it has decrypted before meanwhile.
func serve(ctx context.Context, log *slog.Logger, socket string, t *transit) error {
	if t.key == "" || t.tokenFile == "" {
		return errors.New("-key and -token are needed")
	}
	l, err := listen(ctx, socket)
	if err != nil {
		return err
	}
	if s, err := t.Status(ctx); err != nil {
		log.Error("not ready yet", "error", err)
	} else {
		log.Info("ready", "key", s.KeyID, "socket", socket)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(
		func(ctx context.Context, ask any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			answer, err := next(ctx, ask)
			if err != nil {
				log.Error("refused", "call", info.FullMethod, "error", err)
			}
			return answer, err
		}))
	kmsapi.RegisterKeyManagementServiceServer(server, service.NewGRPCService(socket, vaultTime, t))
	stop := context.AfterFunc(ctx, server.GracefulStop)
	defer stop()
	return server.Serve(l)
}

// listen takes the place of a plugin that has ended, and of no other.
func listen(ctx context.Context, socket string) (net.Listener, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if c, err := new(net.Dialer).DialContext(ctx, "unix", socket); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("listen at %s: another plugin answers there", socket)
	}
	switch info, err := os.Lstat(socket); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("listen at %s: it is there, and no socket", socket)
	default:
		if err := os.Remove(socket); err != nil {
			return nil, err
		}
	}
	defer syscall.Umask(syscall.Umask(0o177))
	return new(net.ListenConfig).Listen(ctx, "unix", socket)
}
