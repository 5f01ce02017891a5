package main

import (
	"context"
	cryptotls "crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/argoproj/argo-cd/v3/reposerver"
	reposervercache "github.com/argoproj/argo-cd/v3/reposerver/cache"
	"github.com/argoproj/argo-cd/v3/reposerver/metrics"
	"github.com/argoproj/argo-cd/v3/reposerver/repository"
	"github.com/argoproj/argo-cd/v3/util/git"
	"k8s.io/apimachinery/pkg/api/resource"
)

func runRepo(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("argocd repo-server", flag.ContinueOnError)
	address := f.String("listen", ":8081", "`address` for the controller, with TLS")
	other := f.String("listen-metrics", ":8084", "`address` of /metrics and /healthz")
	cert := f.String("tls-cert", "", "`file` with the certificate; read again for each connection")
	key := f.String("tls-key", "", "`file` with its key")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *cert == "" || *key == "" {
		return errors.New("-tls-cert and -tls-key are needed")
	}
	m := metrics.NewMetricsServer()
	const mib = 1 << 20
	server, err := reposerver.NewServer(m,
		reposervercache.NewCache(memory(), kept, 3*time.Minute, 10*time.Second),
		func(c *cryptotls.Config) {
			c.MinVersion = cryptotls.VersionTLS13
			c.Certificates = nil
			c.GetCertificate = func(*cryptotls.ClientHelloInfo) (*cryptotls.Certificate, error) {
				pair, err := cryptotls.LoadX509KeyPair(*cert, *key)
				return &pair, err
			}
		},
		repository.RepoServerInitConstants{
			ParallelismLimit:                  2,
			MaxCombinedDirectoryManifestsSize: *resource.NewQuantity(16*mib, resource.BinarySI),
			StreamedManifestMaxExtractedSize:  32 * mib,
			StreamedManifestMaxTarSize:        32 * mib,
			HelmManifestMaxExtractedSize:      32 * mib,
			HelmRegistryMaxIndexSize:          mib,
			OCIManifestMaxExtractedSize:       32 * mib,
			OCIMediaTypes:                     []string{"application/vnd.oci.image.layer.v1.tar+gzip"},
		}, git.NoopCredsStore{})
	if err != nil {
		return fmt.Errorf("make the repo server: %w", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *address)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", m.GetHandler())
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	side := &http.Server{Addr: *other, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	grpc := server.CreateGRPC()
	parts, ctx := errgroup.WithContext(ctx)
	parts.Go(func() error { return grpc.Serve(listener) })
	parts.Go(func() error {
		if err := side.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("metrics: %w", err)
		}
		return nil
	})
	parts.Go(func() error {
		<-ctx.Done()
		grpc.GracefulStop()
		return side.Close()
	})
	return parts.Wait()
}
