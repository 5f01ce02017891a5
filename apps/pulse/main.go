// Command pulse sends events through the platform and keeps account of every one. It has
// two roles: `pulse ingest` takes events in over HTTP and gRPC and publishes them to NATS
// JetStream, `pulse worker` takes them from there and writes them down. See
// docs/reference/pulse.md.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/orrery-dev/orrery/apps/pulse/internal/alerts"
	"github.com/orrery-dev/orrery/apps/pulse/internal/beat"
	"github.com/orrery-dev/orrery/apps/pulse/internal/credential"
	"github.com/orrery-dev/orrery/apps/pulse/internal/ingest"
	"github.com/orrery-dev/orrery/apps/pulse/internal/ledger"
	"github.com/orrery-dev/orrery/apps/pulse/internal/messaging"
	"github.com/orrery-dev/orrery/apps/pulse/internal/outbox"
	"github.com/orrery-dev/orrery/apps/pulse/internal/selfcheck"
	"github.com/orrery-dev/orrery/apps/pulse/internal/service"
	"github.com/orrery-dev/orrery/apps/pulse/internal/store"
	"github.com/orrery-dev/orrery/apps/pulse/internal/telemetry"
	"github.com/orrery-dev/orrery/apps/pulse/internal/worker"
)

// version is set by the build.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop) // the second signal ends the process at once
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "pulse:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage")

// config is what the flags say.
type config struct {
	role          string
	listen, admin string
	nats          messaging.Options
	credential    credential.Options
	replicas      int
	deadline      time.Duration
	outboxDir     string
	beatRate      float64
	beatTarget    string
	otlp          string
	sample        float64
	debug         bool
	delay, grace  time.Duration

	listening func(listen, admin net.Addr) // for tests
}

func parse(args []string, errOut io.Writer) (config, error) {
	var c config
	if len(args) == 0 || args[0] != "ingest" && args[0] != "worker" {
		fmt.Fprintln(errOut, "usage: pulse ingest|worker|check [flags]; pulse ingest -help lists them")
		return c, errUsage
	}
	c.role = args[0]
	f := flag.NewFlagSet("pulse "+c.role, flag.ContinueOnError)
	f.SetOutput(errOut)
	f.StringVar(&c.listen, "listen", ":8080", "`address` for clients, HTTP and gRPC")
	f.StringVar(&c.admin, "admin", ":8081", "`address` for probes and metrics")
	f.StringVar(&c.nats.URL, "nats", "nats://nats.messaging:4222", "`URL` of NATS")
	f.StringVar(&c.credential.File, "nats-creds", "", "`file` with the credentials of the NATS user, for while Vault gives none")
	f.StringVar(&c.credential.Vault.Address, "vault", "", "`URL` of the Vault that gives credentials for NATS; empty: none does")
	f.StringVar(&c.credential.Vault.CAFile, "vault-ca", "", "`file` with the CA of Vault")
	f.StringVar(&c.credential.Vault.TokenFile, "vault-token", "/var/run/pulse/vault/token", "`file` with the service account's token for Vault")
	f.StringVar(&c.credential.Vault.Login, "vault-login", "auth/kubernetes/login", "`path` of Vault to log in at")
	f.StringVar(&c.credential.Vault.Role, "vault-role", "pulse", "`role` to log in as")
	f.StringVar(&c.credential.Vault.Path, "vault-path", "nats/creds/pulse", "`path` of Vault with the credential")
	f.StringVar(&c.nats.CAFile, "nats-ca", "", "`file` with the CA of NATS; TLS is used then")
	f.IntVar(&c.replicas, "replicas", 3, "replicas of the streams: 1, 3 or 5; no more than NATS has servers")
	f.DurationVar(&c.deadline, "deadline", 30*time.Second, "after which an acknowledged event that was not delivered is lost")
	f.StringVar(&c.otlp, "otlp", "", "`URL` of the OTLP gateway (gRPC), such as http://otel-gateway.observability:4317; empty: no traces are sent")
	f.Float64Var(&c.sample, "sample", 1, "share of the traces that are recorded, 0 to 1")
	f.BoolVar(&c.debug, "debug", false, "log every event")
	f.DurationVar(&c.delay, "shutdown-delay", 3*time.Second, "between the end of readiness and that of accepting")
	f.DurationVar(&c.grace, "shutdown-grace", 15*time.Second, "for what is under way, after that")
	if c.role == "ingest" {
		f.StringVar(&c.outboxDir, "outbox", "/var/lib/pulse/outbox", "`folder` for events that are not acknowledged yet")
		f.Float64Var(&c.beatRate, "beat-rate", 0, "events a second that this process makes itself; 0: none")
		f.StringVar(&c.beatTarget, "beat-target", "http://127.0.0.1:8080", "base `URL` of the ingest that they are sent to")
	}
	if err := f.Parse(args[1:]); err != nil {
		return c, errUsage
	}
	wrong := func(format string, a ...any) (config, error) {
		fmt.Fprintf(errOut, "pulse %s: %s\n", c.role, fmt.Sprintf(format, a...))
		return c, errUsage
	}
	switch {
	case f.NArg() > 0:
		return wrong("unexpected argument %q", f.Arg(0))
	case c.replicas != 1 && c.replicas != 3 && c.replicas != 5:
		return wrong("-replicas is %d; must be 1, 3 or 5", c.replicas)
	case c.deadline < time.Second:
		return wrong("-deadline is %s; must be a second or more", c.deadline)
	case c.sample < 0 || c.sample > 1:
		return wrong("-sample is %g; must be from 0 to 1", c.sample)
	case c.beatRate < 0 || c.beatRate > 10000:
		return wrong("-beat-rate is %g; must be from 0 to 10000", c.beatRate)
	}
	return c, nil
}

func run(ctx context.Context, args []string, out, errOut io.Writer) (err error) {
	if len(args) > 0 && args[0] == "check" {
		return check(ctx, args[1:], out, errOut)
	}
	c, err := parse(args, errOut)
	if err != nil {
		return err
	}
	return c.run(ctx, out)
}

// check is the program of the Job that verifies pulse.
func check(ctx context.Context, args []string, out, errOut io.Writer) error {
	o := selfcheck.Options{Lookup: net.DefaultResolver.LookupHost}
	f := flag.NewFlagSet("pulse check", flag.ContinueOnError)
	f.SetOutput(errOut)
	f.StringVar(&o.Ingest, "ingest", "pulse-ingest-replicas", "`name` that resolves to every ingest")
	f.StringVar(&o.Worker, "worker", "pulse-worker-replicas", "`name` that resolves to every worker")
	f.IntVar(&o.Replicas, "replicas", 2, "of each")
	f.IntVar(&o.Port, "port", 8080, "for clients")
	f.IntVar(&o.Admin, "admin", 8081, "`port` for probes")
	f.DurationVar(&o.Deadline, "deadline", 3*time.Minute, "of all of it")
	if err := f.Parse(args); err != nil {
		return errUsage
	}
	if f.NArg() > 0 || o.Replicas < 1 {
		fmt.Fprintln(errOut, "pulse check: -replicas is 1 or more, and there are no arguments but flags")
		return errUsage
	}
	return selfcheck.Run(ctx, o, out)
}

func (c config) run(ctx context.Context, out io.Writer) (err error) {
	level := slog.LevelInfo
	if c.debug {
		level = slog.LevelDebug
	}
	log := telemetry.NewLogger(out, level).With("component", c.role)
	t, err := telemetry.Start(ctx, telemetry.Options{
		Service: "pulse", Version: version, Component: c.role, Endpoint: c.otlp, SampleRatio: c.sample, Log: log,
	})
	if err != nil {
		return err
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		if stopErr := t.Stop(last); stopErr != nil { // what is lost of it is no failure of the service
			log.Warn("the last of the telemetry is lost", "error", stopErr)
		}
	}()

	c.credential.Log = log
	keeper, err := credential.New(c.credential)
	if err != nil {
		return err
	}
	work := []func(ctx, last context.Context){}
	if keeper != nil {
		keeper.Begin(ctx)
		// After the connection: NATS closes one whose credential is given back.
		defer func() { keeper.Close(context.WithoutCancel(ctx)) }()
		work = append(work, func(ctx, _ context.Context) { keeper.Run(ctx) })
	}
	c.nats.Log, c.nats.Name, c.nats.Credential = log, "pulse "+c.role+" "+hostname(), keeper
	connection, err := messaging.Connect(c.nats)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, drain(connection)) }()
	js, err := jetstream.New(connection, jetstream.WithPublishAsyncMaxPending(8*ingest.MaxEvents), jetstream.WithPublishAsyncTimeout(10*time.Second))
	if err != nil {
		return err
	}
	topology := messaging.Topology{JS: js, Replicas: c.replicas}
	book := ledger.New(js, messaging.LedgerBucket, c.deadline)
	mux := http.NewServeMux()
	book.Routes(mux)
	ensured := make(chan struct{})
	options := service.Options{
		Listen: c.listen, Admin: c.admin, Handler: mux, Metrics: t.Metrics(), Ready: topology.Check,
		Delay: c.delay, Grace: c.grace, Listening: c.listening, Log: log,
		Work: append(work, func(ctx, _ context.Context) { topology.Keep(ctx, log, func() { close(ensured) }) }),
	}
	if c.role == "ingest" {
		err = c.ingest(&options, mux, js, book, connection, log)
	} else {
		err = c.worker(&options, topology, ensured, js, book, log)
	}
	if err != nil {
		return err
	}
	if err := service.Run(ctx, options); err != nil {
		return err
	}
	log.Info("stopped")
	return nil
}

func (c config) ingest(o *service.Options, mux *http.ServeMux, js jetstream.JetStream, book *ledger.Ledger, connection *nats.Conn, log *slog.Logger) error {
	box, err := outbox.Open(c.outboxDir, 20_000, 24<<20)
	if err != nil {
		return err
	}
	if n := box.Len(); n > 0 {
		log.Info("events of an earlier run are in the outbox", "events", n)
	}
	// The numbers of this process begin at 1, so its name must be new.
	life := strings.ToLower(rand.Text()[:6])
	in, err := ingest.New(ingest.Options{JS: js, Ledger: book, Outbox: box, Producer: name("ingest", life), Log: log})
	if err != nil {
		return err
	}
	in.Routes(mux)
	receiver, err := alerts.New(connection, log)
	if err != nil {
		return err
	}
	receiver.Routes(mux)
	check := o.Ready
	o.Ready = func(ctx context.Context) error {
		if box.Full() {
			return errors.New("the outbox is nearly full: nothing more can be promised")
		}
		return check(ctx)
	}
	o.Work = append(o.Work, in.Run)
	if c.beatRate > 0 {
		o.Early = append(o.Early, func(ctx context.Context) {
			beat.Run(ctx, beat.Options{Target: c.beatTarget, Producer: name("beat", life), Rate: c.beatRate, Log: log})
		})
	}
	return nil
}

func (c config) worker(o *service.Options, topology messaging.Topology, ensured <-chan struct{}, js jetstream.JetStream, book *ledger.Ledger, log *slog.Logger) error {
	w, err := worker.New(worker.Options{JS: js, Store: store.NewKeyValue(js, messaging.EventBucket), Ledger: book, Log: log})
	if err != nil {
		return err
	}
	o.Ready = func(ctx context.Context) error {
		if err := topology.Check(ctx); err != nil {
			return err
		}
		return w.Check()
	}
	o.Work = append(o.Work, func(ctx, last context.Context) {
		select {
		case <-ensured:
			w.Run(ctx, last)
		case <-ctx.Done():
		}
	})
	return nil
}

// drain closes a connection when what was sent on it is out.
func drain(connection *nats.Conn) error {
	closed := make(chan struct{})
	connection.SetClosedHandler(func(*nats.Conn) { close(closed) })
	if err := connection.Drain(); err != nil { // not connected: nothing to wait for
		connection.Close()
		return nil
	}
	select {
	case <-closed:
		return nil
	case <-time.After(6 * time.Second):
		connection.Close()
		return errors.New("the connection to NATS did not drain")
	}
}

// name makes a producer of this process: ROLE-POD-LIFE, the pod's part at most as long as
// there is room.
func name(role, life string) string {
	host := strings.Map(func(r rune) rune {
		if r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '-'
	}, hostname())
	room := 63 - len(role) - len(life) - 2
	return role + "-" + host[max(0, len(host)-room):] + "-" + life
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}
