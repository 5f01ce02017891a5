package native

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	probeHealthy   = 2 * time.Second        // between probes of a backend that answers
	probeUnhealthy = 100 * time.Millisecond // of one that does not
	probeTimeout   = 1500 * time.Millisecond
	// slowAfter is how many answers in a row may be late before others are preferred.
	slowAfter = 3
	// silence is how long the kernel at the other end may acknowledge nothing, neither data
	// nor keep-alives, until a connection counts as broken: see [detectSilence].
	silence = 10 * time.Second
	// holdTime is how long a connection waits for a backend while none is ready: long
	// enough for a start, so that nobody has to come back.
	holdTime = 15 * time.Second
)

// balancer passes TCP connections on to API servers that serve. It does not
// end TLS: certificates and identities are the API servers'.
type balancer struct {
	dial func(ctx context.Context, address string) (net.Conn, error)
	log  *slog.Logger

	mu       sync.Mutex
	backends []*backend
	next     int
	changed  chan struct{} // closed and replaced when a backend becomes ready
	open     map[net.Conn]*backend
}

type backend struct {
	address string
	health  health
	wake    chan struct{}
}

// health of a backend, the better the greater.
type health int

const (
	away  health = iota // refuses, is told to be gone, or says itself that it is not ready
	slow                // does not answer in time: chosen only where there is no better one
	ready               // answers well
)

func (h health) String() string { return [...]string{"away", "slow", "ready"}[h] }

// probe has the backend looked at now.
func (be *backend) probe() {
	select {
	case be.wake <- struct{}{}:
	default:
	}
}

// newBalancer knows nothing of readiness yet; run probes.
func newBalancer(addresses []string, dial func(context.Context, string) (net.Conn, error), log *slog.Logger) *balancer {
	b := &balancer{dial: dial, log: log, changed: make(chan struct{}), open: map[net.Conn]*backend{}}
	for _, a := range addresses {
		b.backends = append(b.backends, &backend{address: a, wake: make(chan struct{}, 1)})
	}
	return b
}

// run probes every backend until ctx ends. roots is the cluster's authority.
func (b *balancer) run(ctx context.Context, roots *x509.CertPool) {
	var wg sync.WaitGroup
	for _, be := range b.backends {
		wg.Go(func() { b.watch(ctx, be, roots) })
	}
	<-ctx.Done()
	wg.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.open {
		c.Close()
	}
}

func (b *balancer) watch(ctx context.Context, be *backend, roots *x509.CertPool) {
	transport := &http.Transport{
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return b.dial(ctx, be.address) },
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		MaxIdleConns:    1,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	timer := time.NewTimer(0)
	defer timer.Stop()
	late := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-be.wake:
		case <-timer.C:
		}
		err := probeReady(ctx, client, be.address)
		var answer *statusError
		switch {
		case err == nil:
			late = 0
			b.set(be, ready, false)
			timer.Reset(probeHealthy)
			continue
		case errors.As(err, &answer):
			b.set(be, away, false) // it lives, and ends its connections itself when it wants to
		case isTimeout(err):
			// Late is not gone: who cuts the watches of a busy server has all of them begun
			// anew, which makes it busier. A node that is gone is found out by [detectSilence].
			transport.CloseIdleConnections()
			if late++; late >= slowAfter {
				b.set(be, slow, false)
			}
		default:
			transport.CloseIdleConnections()
			b.set(be, away, isDial(err))
		}
		timer.Reset(probeUnhealthy)
	}
}

// isDial tells that the backend could not be connected to.
func isDial(err error) bool {
	var opErr *net.OpError
	return errors.As(err, &opErr) && opErr.Op == "dial"
}

func isTimeout(err error) bool {
	var netErr net.Error
	return errors.Is(err, context.DeadlineExceeded) || (errors.As(err, &netErr) && netErr.Timeout())
}

func probeReady(ctx context.Context, client *http.Client, address string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+servingPath, nil)
	if err != nil {
		return err
	}
	r, err := client.Do(req)
	if err != nil {
		return err
	}
	return wellAnswered(r)
}

// wellAnswered wants status 200, and ends the answer so that its connection can be used again.
func wellAnswered(r *http.Response) error {
	_, _ = io.Copy(io.Discard, r.Body)
	r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return &statusError{code: r.StatusCode, text: r.Status}
	}
	return nil
}

// set notes health and, with cut, closes the connections to the backend: its clients find
// another only once they know.
func (b *balancer) set(be *backend, h health, cut bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if be.health != h {
		better := h > be.health
		be.health = h
		b.log.Info("API server", "address", be.address, "health", h)
		if better {
			close(b.changed)
			b.changed = make(chan struct{})
		}
	}
	for c, of := range b.open {
		if cut && of == be {
			c.Close()
		}
	}
}

// down marks the backend at address as gone; the supervisor knows before a probe does.
func (b *balancer) down(address string) {
	for _, be := range b.backends {
		if be.address == address {
			b.set(be, away, true)
			be.probe()
		}
	}
}

// suspect takes a backend that could not be connected to out of the choice until a probe
// reaches it. That nobody answered in time says little on a busy machine: what is under
// way is left alone, and the probes decide.
func (b *balancer) suspect(be *backend, err error) {
	b.set(be, away, !isTimeout(err))
	be.probe()
}

// pick returns the next of the ready backends, or of the slow ones where none is ready,
// waiting for one at most until ctx ends.
func (b *balancer) pick(ctx context.Context) (*backend, error) {
	for {
		b.mu.Lock()
		for _, enough := range []health{ready, slow} {
			for range b.backends {
				b.next++
				if be := b.backends[b.next%len(b.backends)]; be.health >= enough {
					b.mu.Unlock()
					return be, nil
				}
			}
		}
		changed := b.changed
		b.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, errors.New("no API server is ready")
		}
	}
}

// ready lists the addresses that take connections.
func (b *balancer) ready() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var r []string
	for _, be := range b.backends {
		if be.health == ready {
			r = append(r, be.address)
		}
	}
	return r
}

// serve passes connections of l on until it is closed.
func (b *balancer) serve(l net.Listener) {
	acceptAll(l, func(client net.Conn) {
		defer client.Close()
		ctx, cancel := context.WithTimeout(context.Background(), holdTime)
		defer cancel()
		for {
			be, err := b.pick(ctx)
			if err != nil {
				return
			}
			server, err := b.connect(ctx, be)
			if err != nil {
				b.suspect(be, err)
				continue
			}
			b.track(server, be)
			Splice(client, server)
			b.track(server, nil)
			return
		}
	})
}

func (b *balancer) connect(ctx context.Context, be *backend) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c, err := b.dial(ctx, be.address)
	if err != nil {
		return nil, err
	}
	detectSilence(c, silence)
	return c, nil
}

// detectSilence has the kernel break the connection when the other end's kernel has
// acknowledged nothing for that long: the node has lost its power or its network. A server that
// is merely slow is told from that, since its kernel answers for it. tcp(7), TCP_USER_TIMEOUT.
func detectSilence(c net.Conn, after time.Duration) {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	// An error leaves the kernel's defaults, which take a quarter of an hour.
	_ = t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: after / 2, Interval: after / 4, Count: 2})
	raw, err := t.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(after.Milliseconds()))
	})
}

func (b *balancer) track(c net.Conn, be *backend) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if be == nil {
		delete(b.open, c)
	} else {
		b.open[c] = be
	}
}

func acceptAll(l net.Listener, handle func(net.Conn)) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, most likely: others will free some
			time.Sleep(50 * time.Millisecond) //nolint:forbidigo // nothing tells when one is free
			continue
		}
		go handle(c)
	}
}

// Splice copies both ways until both are done, and closes both. Between TCP connections
// the kernel moves the bytes.
func Splice(a, b net.Conn) {
	var wg sync.WaitGroup
	half := func(to, from net.Conn) {
		_, err := io.Copy(to, from)
		if t, ok := to.(*net.TCPConn); ok && err == nil {
			_ = t.CloseWrite()
			return
		}
		a.Close()
		b.Close()
	}
	wg.Go(func() { half(a, b) })
	half(b, a)
	wg.Wait()
	a.Close()
	b.Close()
}

// listenLocal listens on 127.0.0.1 of the host and says what to do when it cannot.
func listenLocal(port int, field string) (net.Listener, error) {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, fmt.Errorf("listen on 127.0.0.1:%d: %w; end what holds it or set another %s in orrery.yaml", port, err, field)
	}
	return l, nil
}
