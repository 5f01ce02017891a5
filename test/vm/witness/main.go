// Command witness writes to a stream of NATS and tells, a line for each message, what was
// acknowledged; later it reads whether all of that is there. It runs in the machine that loses
// its power, and what it said stays outside of it.
//
//	witness publish KUBECONFIG      until it is ended
//	witness check KUBECONFIG N      messages 1 to N must be there, whole and in order
package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/kube"
)

const (
	stream  = "VM_WITNESS"
	subject = "vm.witness"
	// patience with a machine that is a hundred times slower than this one for some things.
	patience = 3 * time.Minute
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "witness:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 2 && args[0] == "publish":
		return withStream(ctx, args[1], publish)
	case len(args) == 3 && args[0] == "check":
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return fmt.Errorf("how many messages: %w", err)
		}
		return withStream(ctx, args[1], func(ctx context.Context, js jetstream.JetStream) error { return compare(ctx, js, n) })
	}
	return errors.New("usage: witness publish KUBECONFIG | check KUBECONFIG N")
}

// withStream calls f with a connection to the first server of NATS, through the API server.
func withStream(ctx context.Context, kubeconfig string, f func(context.Context, jetstream.JetStream) error) error {
	client, err := kube.Connect(kubeconfig)
	if err != nil {
		return err
	}
	defer client.Close()
	creds, err := secret(ctx, client, "nats-app", "app.creds")
	if err != nil {
		return err
	}
	authority, err := secret(ctx, client, "nats-tls", "ca.crt")
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	var conn *nats.Conn
	// After a boot the pod is there before its kubelet knows of it.
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := check.Until(waiting, check.Pause{First: time.Second}, func() error {
		addr, stop, err := client.PortForward(ctx, "messaging", "nats-0", 4222)
		if err != nil {
			return err
		}
		conn, err = nats.Connect("nats://"+addr, nats.NoReconnect(), nats.Timeout(patience), nats.UserCredentialBytes(creds),
			nats.Secure(&tls.Config{RootCAs: roots, ServerName: "nats.messaging.svc", MinVersion: tls.VersionTLS13}),
			nats.ClosedHandler(func(*nats.Conn) { stop() }))
		if err != nil {
			stop()
		}
		return err
	}); err != nil {
		return fmt.Errorf("connect to nats-0: %w", err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn, jetstream.WithDefaultTimeout(patience))
	if err != nil {
		return err
	}
	return f(ctx, js)
}

func secret(ctx context.Context, client *kube.Client, name, key string) ([]byte, error) {
	o, err := client.Get(ctx, "v1", "Secret", "messaging", name)
	if err != nil {
		return nil, err
	}
	value := kube.SecretData(o)[key]
	if len(value) == 0 {
		return nil, fmt.Errorf("secret messaging/%s has no %s", name, key)
	}
	return value, nil
}

// publish goes on where the stream ends.
func publish(ctx context.Context, js jetstream.JetStream) error {
	s, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: stream, Subjects: []string{subject}, Storage: jetstream.FileStorage})
	if err != nil {
		return fmt.Errorf("make the stream: %w", err)
	}
	for n := int(s.CachedInfo().State.LastSeq) + 1; ; n++ {
		if _, err := js.Publish(ctx, subject, body(n)); err != nil {
			return fmt.Errorf("publish %d: %w", n, err)
		}
		fmt.Println("acknowledged", n)
	}
}

func body(n int) []byte {
	return fmt.Appendf(nil, "%d %x", n, sha256.Sum256([]byte(strconv.Itoa(n))))
}

func compare(ctx context.Context, js jetstream.JetStream, n int) error {
	var s jetstream.Stream
	// Servers that have just started have no leader yet, and nobody answers.
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := check.Until(waiting, check.Pause{First: time.Second}, func() (err error) {
		asking, cancel := context.WithTimeout(waiting, 10*time.Second)
		defer cancel()
		s, err = js.Stream(asking, stream)
		return err
	}); err != nil {
		return fmt.Errorf("the stream: %w", err)
	}
	if last := s.CachedInfo().State.LastSeq; last < uint64(n) {
		return fmt.Errorf("%d messages were acknowledged, and the stream ends at %d", n, last)
	}
	var wrong []string
	for i := 1; i <= n; i++ {
		msg, err := s.GetMsg(ctx, uint64(i))
		switch {
		case err != nil:
			wrong = append(wrong, fmt.Sprintf("%d: %v", i, err))
		case string(msg.Data) != string(body(i)):
			wrong = append(wrong, fmt.Sprintf("%d is %q", i, msg.Data))
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("of %d messages %d are wrong: %s", n, len(wrong), strings.Join(wrong[:min(len(wrong), 5)], "; "))
	}
	fmt.Println("all there:", n)
	return nil
}
