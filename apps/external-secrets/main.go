// Command external-secrets keeps Secrets of the cluster as they are in Vault: the controllers of
// the External Secrets Operator for a namespace's stores and ExternalSecrets, with Vault as the one
// provider. A store for all namespaces there is not: who may read what is Vault's to say, by namespace.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	esv1 "github.com/external-secrets/external-secrets/apis/externalsecrets/v1"
	esv1alpha1 "github.com/external-secrets/external-secrets/apis/externalsecrets/v1alpha1"
	genv1alpha1 "github.com/external-secrets/external-secrets/apis/generators/v1alpha1"
	ctrlcommon "github.com/external-secrets/external-secrets/pkg/controllers/common"
	"github.com/external-secrets/external-secrets/pkg/controllers/externalsecret"
	"github.com/external-secrets/external-secrets/pkg/controllers/externalsecret/esmetrics"
	ctrlmetrics "github.com/external-secrets/external-secrets/pkg/controllers/metrics"
	"github.com/external-secrets/external-secrets/pkg/controllers/secretstore"
	"github.com/external-secrets/external-secrets/pkg/controllers/secretstore/ssmetrics"
	"github.com/external-secrets/external-secrets/pkg/feature"
	_ "github.com/external-secrets/external-secrets/pkg/provider/vault" // says itself that it is there
)

func main() {
	metrics := flag.String("listen-metrics", ":8080", "address that Prometheus asks")
	probes := flag.String("listen-probes", ":8081", "address of /healthz and /readyz")
	elect := flag.Bool("leader-elect", false, "for more than one replica")
	concurrent := flag.Int("concurrent", 1, "ExternalSecrets at a time")
	flag.Parse()
	ctrl.SetLogger(zap.New())
	if err := run(ctrl.SetupSignalHandler(), *metrics, *probes, *elect, *concurrent); err != nil {
		fmt.Fprintln(os.Stderr, "external-secrets:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, metrics, probes string, elect bool, concurrent int) error {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientgoscheme.AddToScheme, esv1.AddToScheme, esv1alpha1.AddToScheme, genv1alpha1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("find the cluster's API: %w", err)
	}
	ctrlmetrics.SetUpLabelNames(false)
	esmetrics.SetUpMetrics()
	ssmetrics.SetUpMetrics()
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                 scheme,
		Metrics:                server.Options{BindAddress: metrics},
		HealthProbeBindAddress: probes,
		// No other Secret than its own is kept in memory.
		Client:           client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}, &corev1.ConfigMap{}}}},
		LeaderElection:   elect,
		LeaderElectionID: "external-secrets-controller",
	})
	if err != nil {
		return fmt.Errorf("make the manager: %w", err)
	}
	managed, err := ctrlcommon.BuildManagedSecretClient(mgr, "")
	if err != nil {
		return fmt.Errorf("make the client for managed Secrets: %w", err)
	}
	options := func() controller.Options {
		return controller.Options{MaxConcurrentReconciles: concurrent, RateLimiter: ctrlcommon.BuildRateLimiter()}
	}
	log := ctrl.Log.WithName("controllers")
	if err := (&secretstore.StoreReconciler{
		Client: mgr.GetClient(), Log: log.WithName("SecretStore"), Scheme: scheme, RequeueInterval: 5 * time.Minute,
	}).SetupWithManager(mgr, options()); err != nil {
		return fmt.Errorf("watch SecretStores: %w", err)
	}
	if err := (&externalsecret.Reconciler{
		Client: mgr.GetClient(), SecretClient: managed, Log: log.WithName("ExternalSecret"), Scheme: scheme,
		RestConfig: config, RequeueInterval: time.Hour, EnableFloodGate: true,
	}).SetupWithManager(mgr, options()); err != nil {
		return fmt.Errorf("watch ExternalSecrets: %w", err)
	}
	for _, add := range []func(string, healthz.Checker) error{mgr.AddHealthzCheck, mgr.AddReadyzCheck} {
		if err := add("ping", healthz.Ping); err != nil {
			return err
		}
	}
	for _, f := range feature.Features() {
		if f.Initialize != nil {
			f.Initialize()
		}
	}
	return mgr.Start(ctx)
}
