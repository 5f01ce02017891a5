package environment

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/mirror"
)

// TestCurrent: a mirror that takes connections and never answers does not keep anybody for ever.
func TestCurrent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	start := time.Now()
	_, err = current(t.Context(), mirror.Mirror{Address: l.Addr().String()}, 100*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "no answer within 100ms") {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
}
