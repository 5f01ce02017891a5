package keeper

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/nats-io/nats.go"
)

const (
	natsCreds = "nats/creds/check"
	// natsSubject is what that role may use.
	natsSubject = "check.vault.lease"
	natsLeases  = 20
	// natsAnswer is how long the servers have for anything.
	natsAnswer = 5 * time.Second
)

// skippedError says why there is nothing to check.
type skippedError struct{ why string }

func (e skippedError) Error() string { return e.why }

// natsLease is a user of NATS that Vault made.
type natsLease struct {
	id, creds string
	ttl       time.Duration
	took      time.Duration
}

// checkNATS takes credentials of NATS, uses one, renews it, and lets it end.
func (k *Keeper) checkNATS(ctx context.Context, c *api.Client) (string, error) {
	if err := k.hasNATS(ctx); err != nil {
		return "", err
	}
	var all []natsLease
	var times []time.Duration
	for range natsLeases {
		l, err := takeNATS(ctx, c)
		if err != nil {
			return "", err
		}
		all, times = append(all, l), append(times, l.took)
	}
	slices.Sort(times)
	// The last, which has just begun.
	ended, err := k.useNATS(ctx, c, all[len(all)-1])
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d users of NATS with a lease, p95 %.1f ms; one used, renewed, and refused %.1f s after its lease ended",
		natsLeases, float64(times[natsLeases*95/100].Microseconds())/1000, ended.Seconds()), nil
}

// hasNATS is nil where a server of NATS has a name.
func (k *Keeper) hasNATS(ctx context.Context) error {
	if k.o.NATS == "" {
		return skippedError{"it was not said where NATS is"}
	}
	u, err := url.Parse(k.o.NATS)
	if err != nil || u.Hostname() == "" {
		return wrong("-nats is no URL: %q", k.o.NATS)
	}
	_, err = net.DefaultResolver.LookupHost(ctx, u.Hostname())
	if d, ok := errors.AsType[*net.DNSError](err); ok && d.IsNotFound {
		return skippedError{"there is no NATS in this environment"}
	}
	return err
}

func takeNATS(ctx context.Context, c *api.Client) (l natsLease, err error) {
	start := time.Now()
	s, err := c.Logical().ReadWithContext(ctx, natsCreds)
	l.took = time.Since(start)
	switch {
	case err != nil:
		return l, fmt.Errorf("take a user of NATS: %w", err)
	case s == nil:
		return l, errors.New("Vault has no engine for NATS yet; the log of its keeper says why")
	}
	l.creds, _ = s.Data["creds"].(string)
	l.id, l.ttl = s.LeaseID, time.Duration(s.LeaseDuration)*time.Second
	if l.creds == "" || l.id == "" || l.ttl <= 0 {
		return l, wrong("a user of NATS came without a credential or a lease")
	}
	return l, nil
}

// useNATS renews a lease until it is past its first end, and then waits until the servers close its
// connection and refuse another one.
func (k *Keeper) useNATS(ctx context.Context, c *api.Client, l natsLease) (after time.Duration, err error) {
	connection, err := k.connectNATS(l)
	if err != nil {
		return 0, fmt.Errorf("log in to NATS with a new lease: %w", err)
	}
	defer connection.Close()
	if err := roundTrip(connection); err != nil {
		return 0, err
	}
	began := time.Now()
	tick := time.NewTicker(l.ttl / 4)
	defer tick.Stop()
	var renewed time.Time
	for renewed.Before(began.Add(l.ttl)) {
		if _, err := c.Sys().RenewWithContext(ctx, l.id, 0); err != nil {
			return 0, fmt.Errorf("renew a lease of NATS after %.1f s: %w", time.Since(began).Seconds(), err)
		}
		renewed = time.Now()
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
	}
	if err := roundTrip(connection); err != nil {
		return 0, wrong("a renewed lease is of no use to NATS: %v", err)
	}
	second, err := k.connectNATS(l)
	if err != nil {
		return 0, wrong("a renewed lease is refused by NATS: %v", err)
	}
	second.Close()
	for {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
		since := time.Since(renewed) - l.ttl
		if since < 0 {
			if connection.IsClosed() {
				return 0, wrong("NATS closed the connection before its lease ended")
			}
			continue
		}
		next, err := k.connectNATS(l)
		switch {
		case err == nil:
			next.Close()
		case connection.IsClosed() && errors.Is(err, nats.ErrAuthorization):
			return since, nil
		}
		if since > time.Minute {
			return 0, wrong("NATS takes a credential %s after its lease ended (closed: %t, %v)", since.Round(time.Second), connection.IsClosed(), err)
		}
	}
}

func (k *Keeper) connectNATS(l natsLease) (*nats.Conn, error) {
	options := []nats.Option{
		nats.Name("check of Vault"), nats.NoReconnect(), nats.Timeout(natsAnswer), nats.UserCredentialBytes([]byte(l.creds)),
	}
	if k.o.CAFile != "" {
		text, err := os.ReadFile(k.o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("authority of NATS' certificate: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("authority of NATS' certificate: %s holds none", k.o.CAFile)
		}
		options = append(options, nats.Secure(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}))
	}
	return nats.Connect(k.o.NATS, options...)
}

// roundTrip publishes, and receives what was published.
func roundTrip(c *nats.Conn) error {
	s, err := c.SubscribeSync(natsSubject)
	if err != nil {
		return fmt.Errorf("subscribe with a leased user: %w", err)
	}
	defer func() { _ = s.Unsubscribe() }()
	if err := c.Publish(natsSubject, nil); err != nil {
		return fmt.Errorf("publish with a leased user: %w", err)
	}
	if _, err := s.NextMsg(natsAnswer); err != nil {
		return fmt.Errorf("receive with a leased user: %w", err)
	}
	return nil
}
