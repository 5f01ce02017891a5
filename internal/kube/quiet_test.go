package kube

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"k8s.io/klog/v2"
)

// TestQuietErrors: what client-go logs by itself, such as a port-forward that broke, is seen by who asked for
// details and by nobody else.
func TestQuietErrors(t *testing.T) {
	defer quiet(slog.New(slog.DiscardHandler))
	for _, test := range []struct {
		level slog.Level
		want  bool
	}{{slog.LevelDebug, true}, {slog.LevelInfo, false}, {slog.LevelWarn, false}} {
		var out bytes.Buffer
		quiet(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: test.level})))
		klog.ErrorS(errors.New("lost connection to pod"), "an error occurred forwarding")
		klog.Error("an error")
		klog.InfoS("news")
		if got := strings.Contains(out.String(), "lost connection to pod"); got != test.want {
			t.Errorf("level %s: %q", test.level, out.String())
		}
		if !test.want && out.Len() > 0 {
			t.Errorf("level %s: %q", test.level, out.String())
		}
	}
}
