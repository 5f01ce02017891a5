package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/orrery-dev/orrery/internal/driver/native"
)

// Tools is the helper that k3d starts for a moment when it makes a cluster. All that k3d asks of it
// then is to be there; to save images of the engine it would need the engine.
func Tools(args []string, out io.Writer) int {
	if len(args) > 0 && args[0] != "noop" {
		fmt.Fprintf(out, "level=fatal msg=%q\n", "images are brought to nodes by the environment's registry: 'orrery images load'")
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	<-ctx.Done()
	return 0
}

// valuesFile tells the load balancer what to do; k3d writes it before the start and at changes.
const valuesFile = "/etc/confd/values.yaml"

// values by port, as "6443.tcp", and the hosts behind it.
type values struct {
	Ports    map[string][]string `yaml:"ports"`
	Settings struct {
		WorkerConnections   int `yaml:"workerConnections"`
		DefaultProxyTimeout int `yaml:"defaultProxyTimeout"`
	} `yaml:"settings"`
}

// Proxy is the cluster's load balancer: it passes connections on to the same port of nodes.
func Proxy(out io.Writer) int {
	log := slog.New(slog.NewTextHandler(out, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	p := &proxy{log: log, ports: map[int]*port{}}
	if err := p.run(ctx, valuesFile); err != nil {
		fmt.Fprintf(out, "level=fatal msg=%q\n", err.Error())
		return 1
	}
	return 0
}

type proxy struct {
	log   *slog.Logger
	ports map[int]*port
}

// look is how often the file is looked at.
const look = 500 * time.Millisecond

func (p *proxy) run(ctx context.Context, path string) error {
	defer func() {
		for _, o := range p.ports {
			o.listener.Close()
		}
	}()
	t := time.NewTicker(look)
	defer t.Stop()
	last := ""
	for {
		b, err := os.ReadFile(path)
		if err != nil && last == "" {
			return fmt.Errorf("what the load balancer has to do: %w", err)
		}
		if err == nil && string(b) != last {
			if err := p.apply(b); err != nil {
				if last == "" {
					return err
				}
				p.log.Error("the old values stay", "error", err)
			} else {
				p.log.Info("start worker processes") // k3d waits for that after each change
			}
			last = string(b)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// apply opens and closes ports until they are those of b.
func (p *proxy) apply(b []byte) error {
	var v values
	if err := yaml.Unmarshal(b, &v); err != nil {
		return fmt.Errorf("%s: %w", valuesFile, err)
	}
	want := map[int][]string{}
	for name, hosts := range v.Ports {
		number, protocol, _ := strings.Cut(name, ".")
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 || n > 65535 {
			return fmt.Errorf("ports.%s: want NUMBER.tcp", name)
		}
		if protocol != "tcp" && protocol != "" {
			return fmt.Errorf("ports.%s: this load balancer passes on tcp only", name)
		}
		want[n] = hosts
	}
	for n, o := range p.ports {
		if want[n] == nil {
			o.listener.Close()
			delete(p.ports, n)
		}
	}
	for n, hosts := range want {
		if o := p.ports[n]; o != nil {
			o.set(hosts)
			continue
		}
		l, err := net.Listen("tcp", ":"+strconv.Itoa(n))
		if err != nil {
			return err
		}
		o := &port{number: n, listener: l, log: p.log, failed: map[string]time.Time{}}
		o.set(hosts)
		p.ports[n] = o
		go o.serve()
	}
	return nil
}

// port is one that is listened on.
type port struct {
	number   int
	listener net.Listener
	log      *slog.Logger

	mu     sync.Mutex
	hosts  []string
	next   int
	failed map[string]time.Time
}

func (o *port) set(hosts []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.hosts = slices.Clone(hosts)
}

// A host that could not be connected to is tried last for as long as failTime.
const (
	failTime    = 10 * time.Second
	connectTime = 2 * time.Second
)

// order of the hosts for the next connection.
func (o *port) order(now time.Time) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.next++
	var good, bad []string
	for i := range o.hosts {
		h := o.hosts[(o.next+i)%len(o.hosts)]
		if now.Sub(o.failed[h]) < failTime {
			bad = append(bad, h)
		} else {
			good = append(good, h)
		}
	}
	return append(good, bad...)
}

func (o *port) fail(host string, when time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failed[host] = when
}

func (o *port) serve() {
	for {
		c, err := o.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(50 * time.Millisecond) //nolint:forbidigo // nothing tells when a descriptor is free
			continue
		}
		go o.pass(c)
	}
}

func (o *port) pass(client net.Conn) {
	defer client.Close()
	d := net.Dialer{Timeout: connectTime}
	for _, h := range o.order(time.Now()) {
		server, err := d.Dial("tcp", net.JoinHostPort(h, strconv.Itoa(o.number)))
		if err != nil {
			o.fail(h, time.Now())
			continue
		}
		o.fail(h, time.Time{})
		native.Splice(client, server)
		return
	}
}
