package kube

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"k8s.io/klog/v2"
)

// client-go logs through klog, a global that writes to stderr by default. It may be set
// only once while nothing logs, so it gets a handler whose target can change.
var (
	klogOnce   sync.Once
	klogTarget atomic.Pointer[slog.Logger]
)

func quiet(log *slog.Logger) {
	klogTarget.Store(log)
	klogOnce.Do(func() {
		klog.LogToStderr(false)
		klog.SetSlogLogger(slog.New(klogHandler{}))
	})
}

// klogHandler forwards at debug level: what matters reaches the caller as an error. What is
// finer than that it drops: from there on client-go logs what requests carry, Secrets too.
type klogHandler struct {
	attrs []slog.Attr
}

func (h klogHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelDebug && klogTarget.Load().Enabled(ctx, slog.LevelDebug)
}

func (h klogHandler) Handle(ctx context.Context, r slog.Record) error {
	if !h.Enabled(ctx, r.Level) { // nobody asks before errors are handed over
		return nil
	}
	out := slog.NewRecord(r.Time, slog.LevelDebug, r.Message, r.PC)
	out.AddAttrs(h.attrs...)
	r.Attrs(func(a slog.Attr) bool { out.AddAttrs(a); return true })
	return klogTarget.Load().Handler().Handle(ctx, out)
}

func (h klogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return klogHandler{append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)}
}

func (h klogHandler) WithGroup(string) slog.Handler { return h }

// serverWarnings logs the Warning headers of the API server (deprecations, mostly).
type serverWarnings struct{ log *slog.Logger }

func (w serverWarnings) HandleWarningHeaderWithContext(ctx context.Context, code int, _, text string) {
	if code == 299 && text != "" { // RFC 7234, 5.5: the one code that the API server uses
		w.log.WarnContext(ctx, "API server", "warning", text)
	}
}
