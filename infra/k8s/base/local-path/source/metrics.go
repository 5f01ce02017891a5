package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// metrics are what Prometheus is told, in its text format
// (https://prometheus.io/docs/instrumenting/exposition_formats/).
type metrics struct {
	made, removed, failed atomic.Uint64
}

// ServeHTTP answers a scrape.
func (m *metrics) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	for _, c := range []struct {
		name, help string
		value      uint64
	}{
		{"local_path_volumes_made_total", "Volumes made on this node since the start.", m.made.Load()},
		{"local_path_volumes_removed_total", "Volumes removed from this node since the start.", m.removed.Load()},
		{"local_path_failures_total", "Attempts to make or to remove a volume that failed and are made again.", m.failed.Load()},
	} {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s counter\n%s %d\n", c.name, c.help, c.name, c.name, c.value)
	}
}

// counting counts what handle cannot do.
func (m *metrics) counting(handle func(context.Context, object) error) func(context.Context, object) error {
	return func(ctx context.Context, o object) error {
		err := handle(ctx, o)
		if err != nil && !errors.Is(err, errLater) && ctx.Err() == nil {
			m.failed.Add(1)
		}
		return err
	}
}

// serve answers scrapes at an address until ctx ends.
func (m *metrics) serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("answer scrapes: %w", err)
	}
	return nil
}
