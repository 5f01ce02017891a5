package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/command/server"
	"github.com/hashicorp/vault/helper/metricsutil"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/physical/raft"
	"github.com/hashicorp/vault/sdk/physical"
	"github.com/hashicorp/vault/vault"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/orrery-dev/orrery/apps/vault/internal/backends"
)

// Options say where a node is and what it is made of; see the flags of the command.
type Options struct {
	Node, Cluster, Data, SealKeyFile     string
	Listen, ListenCluster, ListenMetrics string
	Address, ClusterAddress              string
	CertFile, KeyFile, CAFile            string
	Join                                 []string
	Log                                  hclog.Logger
}

// unsealEvery is how often a node that cannot be unsealed yet tries again: it has no data before
// somebody initialises it, or before it joined the others.
const unsealEvery = time.Second

// Run serves until ctx ends, and seals then.
func Run(ctx context.Context, o Options) error {
	if err := o.check(); err != nil {
		return err
	}
	storage, err := newStorage(o)
	if err != nil {
		return err
	}
	seal, err := newSeal(o.Log.Named("seal"), o.SealKeyFile)
	if err != nil {
		return err
	}
	inMemory, sink, _, err := configutil.SetupTelemetry(&configutil.SetupTelemetryOpts{
		Config:      &configutil.Telemetry{PrometheusRetentionTime: 2 * time.Minute, DisableHostname: true},
		ServiceName: "vault", DisplayName: "Vault", ClusterName: o.Cluster,
	})
	if err != nil {
		return fmt.Errorf("set up metrics: %w", err)
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical: storage, HAPhysical: storage.(physical.HABackend), StorageType: "raft",
		Seal:               seal,
		LogicalBackends:    backends.Secrets(),
		CredentialBackends: backends.Auth(),
		AuditBackends:      backends.Audit(),
		BuiltinRegistry:    backends.Registry{},
		RawConfig:          &server.Config{SharedConfig: &configutil.SharedConfig{ClusterName: o.Cluster, DisableMlock: true}},
		ClusterName:        o.Cluster,
		RedirectAddr:       o.Address,
		ClusterAddr:        o.ClusterAddress,
		DefaultLeaseTTL:    time.Hour,
		MaxLeaseTTL:        90 * 24 * time.Hour,
		// Locking memory needs a capability that pods do not get; nodes have no swap by Kubernetes' rules.
		DisableMlock: true,
		MetricSink:   sink, MetricsHelper: metricsutil.NewMetricsHelper(inMemory, true),
		LogLevel: o.Log.GetLevel().String(), Logger: o.Log,
		// Of a handful of engines.
		NumExpirationWorkers: 8, NumRollbackWorkers: 4,
		ReloadFuncs: nil,
	})
	if err != nil {
		return fmt.Errorf("make the node of what is in %s: %w", o.Data, err)
	}
	defer func() {
		if err := core.Shutdown(); err != nil {
			o.Log.Error("seal on the way out", "error", err)
		}
	}()
	return serve(ctx, o, core)
}

func (o Options) check() error {
	for _, f := range []struct{ name, value string }{
		{"node", o.Node}, {"seal-key", o.SealKeyFile}, {"address", o.Address}, {"cluster-address", o.ClusterAddress},
	} {
		if f.value == "" {
			return fmt.Errorf("-%s is not set", f.name)
		}
	}
	if (o.CertFile == "") != (o.KeyFile == "") {
		return errors.New("-tls-cert and -tls-key go together")
	}
	return nil
}

func newStorage(o Options) (physical.Backend, error) {
	// Timeouts as short as Vault has them: a lost leader is given up after a second, not five.
	config := map[string]string{"path": o.Data, "node_id": o.Node, "performance_multiplier": "1"}
	if len(o.Join) > 0 {
		var peers []map[string]string
		for _, u := range o.Join {
			peer := map[string]string{"leader_api_addr": u}
			if o.CAFile != "" {
				peer["leader_ca_cert_file"] = o.CAFile
			}
			peers = append(peers, peer)
		}
		text, err := json.Marshal(peers)
		if err != nil {
			return nil, err
		}
		config["retry_join"] = string(text)
	}
	b, err := raft.NewRaftBackend(config, o.Log.Named("storage.raft"))
	if err != nil {
		return nil, fmt.Errorf("open the storage in %s: %w", o.Data, err)
	}
	return b, nil
}

func serve(ctx context.Context, o Options, core *vault.Core) error {
	cluster, err := net.ResolveTCPAddr("tcp", o.ListenCluster)
	if err != nil {
		return fmt.Errorf("-listen-cluster: %w", err)
	}
	listener := &configutil.Listener{Type: "tcp", Address: o.Listen}
	handler := func(l *configutil.Listener) http.Handler {
		return vaulthttp.Handler.Handler(&vault.HandlerProperties{Core: core, ListenerConfig: l})
	}
	// Before it is unsealed: whoever is active answers for the others.
	core.SetClusterListenerAddrs([]*net.TCPAddr{cluster})
	core.SetClusterHandler(handler(&configutil.Listener{DisableJSONLimitParsing: true}))

	ln, err := listen(o)
	if err != nil {
		return err
	}
	api := &http.Server{
		Handler: handler(listener), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second,
		IdleTimeout: 5 * time.Minute, ErrorLog: o.Log.Named("http").StandardLogger(nil),
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.Handler())
	metrics := &http.Server{Addr: o.ListenMetrics, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 3)
	go func() { failed <- api.Serve(ln) }()
	go func() { failed <- metrics.ListenAndServe() }()
	go unseal(ctx, o.Log, core)
	if err := core.InitiateRetryJoin(ctx); err != nil {
		return fmt.Errorf("join the other nodes: %w", err)
	}
	select {
	case <-ctx.Done():
		err = nil
	case <-core.ShutdownDone():
		err = errors.New("it has shut down by itself; the log above says why")
	case err = <-failed:
		err = fmt.Errorf("serve: %w", err)
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(err, api.Shutdown(bounded), metrics.Shutdown(bounded))
}

// unseal tries until it succeeds or can never succeed.
func unseal(ctx context.Context, log hclog.Logger, core *vault.Core) {
	tick := time.NewTicker(unsealEvery)
	defer tick.Stop()
	said := ""
	for {
		err := core.UnsealWithStoredKeys(ctx)
		if err == nil && !core.Sealed() {
			return
		}
		if err != nil && err.Error() != said {
			said = err.Error()
			log.Warn("still sealed", "error", err, "fatal", vault.IsFatalError(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// listen opens the port for clients. A certificate that was renewed is used from the next
// connection on.
func listen(o Options) (net.Listener, error) {
	ln, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("-listen: %w", err)
	}
	if o.CertFile == "" {
		return ln, nil
	}
	certs := &certificates{cert: o.CertFile, key: o.KeyFile}
	if _, err := certs.get(nil); err != nil {
		ln.Close()
		return nil, err
	}
	return tls.NewListener(ln, &tls.Config{
		MinVersion: tls.VersionTLS12, GetCertificate: certs.get, NextProtos: []string{"h2", "http/1.1"},
	}), nil
}
