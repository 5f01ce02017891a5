package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/cert-manager/cert-manager/internal/kube"
	upstream "github.com/cert-manager/cert-manager/pkg/controller"
	"github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/approver"
	requestca "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/ca"
	requestselfsigned "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/selfsigned"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/issuing"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/keymanager"
	certificatemetrics "github.com/cert-manager/cert-manager/pkg/controller/certificates/metrics"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/readiness"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/requestmanager"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/revisionmanager"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/trigger"
	"github.com/cert-manager/cert-manager/pkg/controller/clusterissuers"
	"github.com/cert-manager/cert-manager/pkg/controller/issuers"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/ca" // each registers its kind of issuer
	_ "github.com/cert-manager/cert-manager/pkg/issuer/selfsigned"
	"github.com/cert-manager/cert-manager/pkg/metrics"
)

// loops are the control loops that run, by the names under which they are registered.
var loops = []string{
	issuers.ControllerName, clusterissuers.ControllerName,
	trigger.ControllerName, keymanager.ControllerName, requestmanager.ControllerName, issuing.ControllerName,
	readiness.ControllerName, revisionmanager.ControllerName, certificatemetrics.ControllerName,
	approver.ControllerName, requestca.CRControllerName, requestselfsigned.CRControllerName,
}

// controller is the control loops and what they share.
type controller struct {
	config  *rest.Config
	metrics *metrics.Metrics
	loops   map[string]upstream.Interface
	start   func(stop <-chan struct{}) // of what they watch
}

func newController(ctx context.Context, c config) (*controller, error) {
	factory, err := upstream.NewContextFactory(ctx, upstream.ContextOptions{
		Kubeconfig:       c.kubeconfig,
		KubernetesAPIQPS: 20, KubernetesAPIBurst: 50,
		IssuerOptions: upstream.IssuerOptions{ClusterResourceNamespace: c.namespace},
		CertificateOptions: upstream.CertificateOptions{
			CopiedAnnotationPrefixes: []string{"*", "-kubectl.kubernetes.io/", "-fluxcd.io/", "-argocd.argoproj.io/"},
			// An issuer that is not there yet is no reason to wait for an hour.
			CertificateRequestMinimumBackoffDuration: time.Minute,
			CertificateRequestMaximumBackoffDuration: time.Hour,
		},
	})
	if err != nil {
		return nil, err
	}
	shared, err := factory.Build()
	if err != nil {
		return nil, err
	}
	config, err := kube.BuildClientConfig("", c.kubeconfig)
	if err != nil {
		return nil, err
	}
	config.UserAgent = "cert-manager"
	work := &controller{config: config, metrics: shared.Metrics, loops: map[string]upstream.Interface{}}
	certmanager := shared.SharedInformerFactory.Certmanager().V1()
	shared.Metrics.SetupCertificateCollector(certmanager.Certificates().Lister())
	shared.Metrics.SetupIssuerCollector(certmanager.Issuers().Lister())
	shared.Metrics.SetupClusterIssuerCollector(certmanager.ClusterIssuers().Lister())
	known := upstream.Known()
	for _, name := range loops {
		build, ok := known[name]
		if !ok {
			return nil, fmt.Errorf("no control loop %q is linked", name)
		}
		if work.loops[name], err = build(factory); err != nil {
			return nil, fmt.Errorf("control loop %s: %w", name, err)
		}
	}
	work.start = func(stop <-chan struct{}) {
		shared.SharedInformerFactory.Start(stop)
		shared.KubeSharedInformerFactory.Start(stop)
	}
	return work, nil
}

// run works until ctx ends.
func (w *controller) run(ctx context.Context, workers int) error {
	w.start(ctx.Done())
	group, ctx := errgroup.WithContext(ctx)
	for name, loop := range w.loops {
		group.Go(func() error {
			if err := loop.Run(workers, ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("control loop %s: %w", name, err)
			}
			return nil
		})
	}
	return group.Wait()
}
