package kube

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"k8s.io/klog/v2"
)

// What client-go calls an error is for --verbose: what matters reaches the caller.
func TestErrorsOfClientGo(t *testing.T) {
	before := klogTarget.Load()
	if before == nil {
		before = slog.New(slog.DiscardHandler)
	}
	defer quiet(before)
	for level, want := range map[slog.Level]bool{slog.LevelError: false, slog.LevelDebug: true} {
		var out strings.Builder
		quiet(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level})))
		klog.Background().Error(errors.New("gone"), "a connection broke")
		if got := strings.Contains(out.String(), "a connection broke"); got != want {
			t.Errorf("at level %s: %q", level, out.String())
		}
	}
}
