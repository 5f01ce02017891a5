package node

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
)

// answering is a host that says its name to whoever connects.
func answering(t *testing.T, host string, port int) {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", host, port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, host)
			c.Close()
		}
	}()
}

func ask(port int) string {
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	b, _ := io.ReadAll(c)
	return string(b)
}

func TestProxyTakesTurnsAndLeavesOutWhoIsAway(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.9:0")
	if err != nil {
		t.Fatal(err)
	}
	number := l.Addr().(*net.TCPAddr).Port
	l.Close()
	answering(t, "127.0.0.2", number)
	answering(t, "127.0.0.3", number)
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	o := &port{number: number, listener: front, log: slog.New(slog.DiscardHandler), failed: map[string]time.Time{}}
	o.set([]string{"127.0.0.2", "127.0.0.3", "127.0.0.4"}) // nobody listens at the last
	go o.serve()
	got := map[string]int{}
	for range 12 {
		got[ask(front.Addr().(*net.TCPAddr).Port)]++
	}
	if len(got) != 2 || got["127.0.0.2"] < 3 || got["127.0.0.3"] < 3 {
		t.Errorf("answers: %v", got)
	}
}

func TestProxyFollowsItsFile(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	number := free.Addr().(*net.TCPAddr).Port
	free.Close()
	file := filepath.Join(t.TempDir(), "values.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(fmt.Sprintf("ports:\n  %d.tcp: [host.invalid]\nsettings:\n  workerConnections: 1024\n", number))
	var log strings.Builder
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	p := &proxy{log: slog.New(slog.NewTextHandler(&log, nil)), ports: map[int]*port{}}
	go func() { ended <- p.run(ctx, file) }()
	listens := func() error {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", number))
		if err == nil {
			c.Close()
		}
		return err
	}
	limit, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	if err := check.Until(limit, check.Pause{First: 20 * time.Millisecond}, listens); err != nil {
		t.Fatal(err)
	}
	write("ports: {}\n")
	if err := check.Until(limit, check.Pause{First: 20 * time.Millisecond}, func() error {
		if listens() == nil {
			return fmt.Errorf("port %d is still open", number)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "start worker processes"); n != 2 {
		t.Errorf("it told k3d %d times that it works, want after each change:\n%s", n, log.String())
	}
	for text, want := range map[string]string{"ports: {x.tcp: []}": "ports.x.tcp", "ports: {53.udp: [a]}": "tcp only", "ports: [": "yaml"} {
		if err := p.apply([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
