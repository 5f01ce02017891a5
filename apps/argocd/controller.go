package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	commitclient "github.com/argoproj/argo-cd/v3/commitserver/apiclient"
	"github.com/argoproj/argo-cd/v3/common"
	"github.com/argoproj/argo-cd/v3/controller"
	"github.com/argoproj/argo-cd/v3/controller/sharding"
	"github.com/argoproj/argo-cd/v3/pkg/apis/application/v1alpha1"
	appclientset "github.com/argoproj/argo-cd/v3/pkg/client/clientset/versioned"
	"github.com/argoproj/argo-cd/v3/pkg/ratelimiter"
	"github.com/argoproj/argo-cd/v3/reposerver/apiclient"
	"github.com/argoproj/argo-cd/v3/util/argo/normalizers"
	appstatecache "github.com/argoproj/argo-cd/v3/util/cache/appstate"
	kubeutil "github.com/argoproj/argo-cd/v3/util/kube"
	"github.com/argoproj/argo-cd/v3/util/settings"
	"github.com/argoproj/argo-cd/v3/util/tls"
)

func runController(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("argocd controller", flag.ContinueOnError)
	namespace := f.String("namespace", "argocd", "that the Applications are in")
	repo := f.String("repo-server", "argocd-repo-server:8081", "`address` of the repo server")
	ca := f.String("ca", "", "`file` with the authority that signed the repo server's certificate")
	resync := f.Duration("resync", time.Minute, "how often a source is looked at without being told")
	heal := f.Duration("heal", time.Second, "between two attempts to undo what somebody changed by hand; the time grows")
	workers := f.Int("workers", 4, "Applications that are compared, and synced, at a time")
	metrics := f.Int("metrics-port", 8082, "`port` of /metrics and /healthz")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *ca == "" {
		return errors.New("-ca is needed: what the repo server says is applied, so it must be known")
	}
	config, err := rest.InClusterConfig()
	if err != nil {
		return fmt.Errorf("find the cluster's API: %w", err)
	}
	if err := v1alpha1.SetK8SConfigDefaults(config); err != nil {
		return fmt.Errorf("configure the client: %w", err)
	}
	config.UserAgent = "argocd-application-controller"
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	apps, err := appclientset.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client of Applications: %w", err)
	}
	pool, err := tls.LoadX509CertPool(*ca)
	if err != nil {
		return fmt.Errorf("read %s: %w", *ca, err)
	}
	var ctrl *controller.ApplicationController
	manager := settings.NewSettingsManager(ctx, kube, *namespace, settings.WithRepoOrClusterChangedHandler(func() {
		if ctrl != nil {
			ctrl.InvalidateProjectsCache()
		}
	}))
	shards, err := sharding.GetClusterSharding(kube, manager, common.DefaultShardingAlgorithm, false)
	if err != nil {
		return fmt.Errorf("sharding: %w", err)
	}
	ctrl, err = controller.NewApplicationController(*namespace, manager, kube, apps,
		apiclient.NewRepoServerClientset(*repo, 60, apiclient.TLSConfiguration{StrictValidation: true, Certificates: pool}),
		commitclient.NewCommitServerClientset(""), appstatecache.NewCache(memory(), kept), kubeutil.NewKubectl(),
		*resync, 0, *resync/4, 0,
		&wait.Backoff{Duration: *heal, Factor: 3, Cap: 2 * time.Minute}, 5*time.Minute,
		10*time.Minute, 3*time.Minute,
		*metrics, 0, nil, nil, nil, 20, true, shards, nil,
		ratelimiter.GetDefaultAppRateLimiterConfig(), true, false,
		normalizers.IgnoreNormalizerOpts{JQExecutionTimeout: time.Second}, []string{"none"}, false)
	if err != nil {
		return fmt.Errorf("make the controller: %w", err)
	}
	go changed(ctx, *ca)
	ctrl.Run(ctx, *workers, *workers)
	return nil
}

// changed ends the process when the file's content is another one: the client keeps the authority that
// it was made with.
func changed(ctx context.Context, file string) {
	before, _ := os.ReadFile(file)
	wait.UntilWithContext(ctx, func(context.Context) {
		if now, err := os.ReadFile(file); err == nil && string(now) != string(before) {
			fmt.Fprintln(os.Stderr, "argocd: the authority is another one; starting anew")
			os.Exit(0)
		}
	}, time.Minute)
}
