// Package service is what every service needs around its work: two listeners, probes that
// tell the truth, and an end that loses nothing.
//
// Newcomers start at [Run].
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
)

// Options of Run.
type Options struct {
	// Listen is the address for clients: HTTP/1.1, and HTTP/2 without TLS for gRPC.
	// Admin is the address for probes and metrics.
	Listen, Admin string
	Handler       http.Handler
	Metrics       http.Handler
	// Ready says why the service cannot do its work now; nil when it can. It is asked at
	// most once a second.
	Ready func(context.Context) error
	// Delay between the end of readiness and that of accepting: time for all who send to
	// notice. Default 3 s.
	Delay time.Duration
	// Grace is how long requests and work under way may take after that. Default 15 s.
	Grace time.Duration
	// Work runs besides the listeners. Its first context ends when no requests are left;
	// then it has until the end of the second.
	Work []func(ctx, last context.Context)
	// Early is work that ends at once, when the service is told to: what makes requests.
	Early []func(ctx context.Context)
	// Listening, when not nil, is told the addresses.
	Listening func(listen, admin net.Addr)
	Log       *slog.Logger
}

// Run serves until ctx ends and then shuts down in order: readiness, load of its own,
// listeners, work. It returns nil when all of it ended in time.
func Run(ctx context.Context, o Options) error {
	if o.Delay == 0 {
		o.Delay = 3 * time.Second
	}
	if o.Grace == 0 {
		o.Grace = 15 * time.Second
	}
	var stopping atomic.Bool
	listen, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Listen)
	if err != nil {
		return err
	}
	adminListen, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Admin)
	if err != nil {
		return errors.Join(err, listen.Close())
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	public := &http.Server{
		Handler:           otelhttp.NewHandler(o.Handler, "http", otelhttp.WithSpanNameFormatter(spanName)),
		Protocols:         protocols,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn),
	}
	ready := &readiness{check: o.Ready, stopping: &stopping}
	admin := &http.Server{
		Handler:           adminRoutes(o.Metrics, ready),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		ErrorLog:          public.ErrorLog,
	}
	served := make(chan error, 2)
	go func() { served <- public.Serve(listen) }()
	go func() { served <- admin.Serve(adminListen) }()
	if o.Listening != nil {
		o.Listening(listen.Addr(), adminListen.Addr())
	}
	o.Log.Info("serving", "listen", listen.Addr().String(), "admin", adminListen.Addr().String())

	early, stopEarly := context.WithCancel(context.WithoutCancel(ctx))
	defer stopEarly()
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	last, stopLast := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLast()
	var earlyGroup, workGroup sync.WaitGroup
	for _, f := range o.Early {
		earlyGroup.Go(func() { f(early) })
	}
	for _, f := range o.Work {
		workGroup.Go(func() { f(work, last) })
	}

	var failed error
	select {
	case <-ctx.Done():
		o.Log.Info("stopping: no longer ready", "delay", o.Delay)
	case err := <-served: // a listener that ends by itself
		failed = fmt.Errorf("serve: %w", err)
	}
	stopping.Store(true)
	stopEarly()
	earlyGroup.Wait()
	if failed == nil {
		time.Sleep(o.Delay) // nothing can tell that every sender has noticed
	}
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.Grace)
	defer cancel()
	context.AfterFunc(bound, stopLast)
	if err := public.Shutdown(bound); err != nil {
		failed = errors.Join(failed, fmt.Errorf("requests did not end within %s: %w", o.Grace, err), public.Close())
	}
	stopWork()
	workGroup.Wait()
	// Probes and metrics to the very end.
	failed = errors.Join(failed, admin.Shutdown(bound))
	if bound.Err() != nil {
		failed = errors.Join(failed, fmt.Errorf("work under way did not end within %s", o.Grace))
	}
	return failed
}

// spanName is the route, not the path: there are few of them.
func spanName(_ string, r *http.Request) string {
	if r.Pattern != "" {
		return r.Pattern
	}
	return r.Method
}

func adminRoutes(metrics http.Handler, ready *readiness) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.Handle("GET /readyz", ready)
	mux.Handle("GET /metrics", metrics)
	return mux
}

// readiness answers /readyz.
type readiness struct {
	check    func(context.Context) error
	stopping *atomic.Bool

	mu    sync.Mutex
	at    time.Time
	fault error
}

func (r *readiness) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	if r.stopping.Load() {
		http.Error(w, "stopping", http.StatusServiceUnavailable)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.at) >= time.Second {
		// The answer is kept for others, so it must not depend on who asked first.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(request.Context()), 3*time.Second)
		defer cancel()
		r.fault, r.at = r.check(ctx), time.Now()
	}
	if r.fault != nil {
		http.Error(w, "not ready: "+r.fault.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}
