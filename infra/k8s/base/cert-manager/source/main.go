// Command cert-manager is cert-manager's controller, CA injector and webhook in one process. Its
// module publishes them as packages whose programs are in modules of their own, so the start is
// written here. It has the issuers that this platform uses, CA and self-signed. No ACME, no Vault,
// and no certificates for Ingress, Gateway and CertificateSigningRequests: what is not linked
// needs no memory, no cloud SDK and no right.
//
// Start reading at run; controller.go, injector.go and webhook.go are the three parts.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	ctrl "sigs.k8s.io/controller-runtime"

	logf "github.com/cert-manager/cert-manager/pkg/logs"
	"github.com/cert-manager/cert-manager/pkg/metrics"
)

// config is what the flags say.
type config struct {
	namespace  string // of ClusterIssuers' Secrets and of the lease
	identity   string
	elect      bool
	metrics    string
	webhook    int
	health     int
	cert, key  string
	workers    int
	kubeconfig string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ctrl.SetLogger(logf.Log)
	if err := start(ctx, os.Args[1:]); err != nil {
		logf.Log.Error(err, "cert-manager ends")
		os.Exit(1)
	}
}

func start(ctx context.Context, args []string) error {
	c := config{}
	f := flag.NewFlagSet("cert-manager", flag.ContinueOnError)
	f.StringVar(&c.namespace, "namespace", "cert-manager", "that this runs in; Secrets that ClusterIssuers name are in it")
	f.StringVar(&c.identity, "identity", os.Getenv("POD_NAME"), "of this process in the lease")
	f.BoolVar(&c.elect, "elect", false, "there are several of these: one of them works, all answer the webhook")
	f.StringVar(&c.metrics, "metrics", ":9402", "`address` of /metrics")
	f.IntVar(&c.webhook, "webhook-port", 10250, "`port` of the webhook")
	f.IntVar(&c.health, "health-port", 6080, "`port` of /healthz and /livez")
	f.StringVar(&c.cert, "tls-cert", "", "`file` with the webhook's certificate; read again when it changes")
	f.StringVar(&c.key, "tls-key", "", "`file` with its key")
	f.IntVar(&c.workers, "workers", 2, "certificates that each control loop works on at a time")
	f.StringVar(&c.kubeconfig, "kubeconfig", "", "`file` to reach the API with, outside the cluster")
	if err := f.Parse(args); err != nil {
		return err
	}
	switch {
	case f.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	case c.cert == "" || c.key == "":
		return errors.New("-tls-cert and -tls-key are needed: the API server calls no webhook without TLS")
	case c.elect && c.identity == "":
		return errors.New("-elect needs -identity, or the environment variable POD_NAME")
	case c.workers < 1:
		return fmt.Errorf("-workers is %d; must be 1 or more", c.workers)
	}
	return run(logf.NewContext(ctx, logf.Log), c)
}

// run ends when ctx does, or with the first part that fails.
func run(ctx context.Context, c config) error {
	webhook, err := newWebhook(c)
	if err != nil {
		return fmt.Errorf("webhook: %w", err)
	}
	work, err := newController(ctx, c)
	if err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	parts, ctx := errgroup.WithContext(ctx)
	parts.Go(func() error { return webhook.Run(ctx) })
	parts.Go(func() error { return serveMetrics(ctx, c.metrics, work.metrics) })
	parts.Go(func() error {
		if !c.elect {
			return lead(ctx, c, work)
		}
		return elected(ctx, c, work.config, func(ctx context.Context) error { return lead(ctx, c, work) })
	})
	if err := parts.Wait(); err != nil && ctx.Err() == nil || !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// lead is what one process at a time does.
func lead(ctx context.Context, c config, work *controller) error {
	parts, ctx := errgroup.WithContext(ctx)
	parts.Go(func() error { return work.run(ctx, c.workers) })
	parts.Go(func() error { return runInjector(ctx, work.config) })
	return parts.Wait()
}

// elected does the work while this process holds the lease. Who loses it ends, and starts anew as
// one that waits: nothing that was begun may go on beside the next leader's.
func elected(ctx context.Context, c config, rc *rest.Config, work func(context.Context) error) error {
	client, err := kubernetes.NewForConfig(rc)
	if err != nil {
		return fmt.Errorf("election: %w", err)
	}
	lock, err := resourcelock.New(resourcelock.LeasesResourceLock, c.namespace, "cert-manager",
		client.CoreV1(), client.CoordinationV1(), resourcelock.ResourceLockConfig{Identity: c.identity})
	if err != nil {
		return fmt.Errorf("election: %w", err)
	}
	ended := make(chan error, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, LeaseDuration: 30 * time.Second, RenewDeadline: 20 * time.Second, RetryPeriod: 4 * time.Second,
		ReleaseOnCancel: true, Name: "cert-manager",
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) { ended <- work(ctx) },
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("election: %w", err)
	}
	gone := make(chan struct{})
	go func() { elector.Run(ctx); close(gone) }()
	select {
	case err := <-ended:
		return err
	case <-gone:
	}
	if ctx.Err() != nil {
		return nil
	}
	return errors.New("election: the lease is lost")
}

func serveMetrics(ctx context.Context, address string, m *metrics.Metrics) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	server := m.NewServer(l)
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}
