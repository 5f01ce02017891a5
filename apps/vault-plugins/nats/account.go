package nats

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

const revokedPrefix = "revoked/"

// revocation of a user's key. It is forgotten when its JWT has ended by itself.
type revocation struct {
	At      time.Time `json:"at"`
	Expires time.Time `json:"expires"`
}

func revocations(ctx context.Context, s logical.Storage) (map[string]revocation, error) {
	keys, err := s.List(ctx, revokedPrefix)
	if err != nil {
		return nil, err
	}
	all := map[string]revocation{}
	for _, key := range keys {
		entry, err := s.Get(ctx, revokedPrefix+key)
		if err != nil {
			return nil, err
		}
		if entry == nil {
			continue
		}
		var r revocation
		if err := entry.DecodeJSON(&r); err != nil {
			return nil, fmt.Errorf("revocation of %s: %w", key, err)
		}
		all[key] = r
	}
	return all, nil
}

// pushes has one push at a time, and one for all that came while another was under way.
type pushes struct {
	one sync.Mutex

	counter      sync.Mutex
	wanted, done uint64
}

// push brings the account up to what the storage says. With must, it is an error that the servers
// do not say so.
func (b *backend) push(ctx context.Context, s logical.Storage, must bool) error {
	p := &b.pushes
	p.counter.Lock()
	p.wanted++
	mine := p.wanted
	p.counter.Unlock()
	p.one.Lock()
	defer p.one.Unlock()
	p.counter.Lock()
	upTo, done := p.wanted, p.done
	p.counter.Unlock()
	if must && done >= mine {
		return nil // a push that began after the caller had written took it along
	}
	c, err := loadConfig(ctx, s)
	if err != nil {
		return err
	}
	all, err := revocations(ctx, s)
	if err != nil {
		return err
	}
	now := time.Now()
	if err := c.reconcile(ctx, all, now); err != nil {
		return err
	}
	for key, r := range all {
		if now.After(r.Expires) {
			if err := s.Delete(ctx, revokedPrefix+key); err != nil {
				return err
			}
		}
	}
	p.counter.Lock()
	p.done = upTo
	p.counter.Unlock()
	return nil
}

// connect as the user of the system account.
func (c *config) connect() (*nats.Conn, error) {
	options := []nats.Option{
		nats.Name("vault secrets engine"), nats.NoReconnect(), nats.Timeout(3 * time.Second),
		nats.UserCredentialBytes([]byte(c.SystemCreds)),
	}
	ca := []byte(c.CA)
	if c.CAFile != "" {
		var err error
		if ca, err = os.ReadFile(c.CAFile); err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
	}
	if len(ca) > 0 {
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(ca) {
			return nil, errors.New("ca holds no certificate")
		}
		options = append(options, nats.Secure(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}))
	}
	connection, err := nats.Connect(strings.Join(c.URLs, ","), options...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS at %s: %w", strings.Join(c.URLs, ","), err)
	}
	return connection, nil
}

// lookup asks the servers for the account, and sees that it is the one of the operator's key:
// they would take any other too, and be left with an account that nobody may use.
func (c *config) lookup(ctx context.Context, connection *nats.Conn) (*jwt.AccountClaims, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	reply, err := connection.RequestWithContext(ctx, fmt.Sprintf("$SYS.REQ.ACCOUNT.%s.CLAIMS.LOOKUP", c.Account), nil)
	if err != nil {
		return nil, fmt.Errorf("look up account %s: %w", c.Account, err)
	}
	if len(reply.Data) == 0 {
		return nil, fmt.Errorf("the servers do not know account %s", c.Account)
	}
	claims, err := jwt.DecodeAccountClaims(string(reply.Data))
	if err != nil {
		return nil, fmt.Errorf("account %s: %w", c.Account, err)
	}
	_, operator, err := pairOf("operator_seed", c.OperatorSeed, nkeys.PrefixByteOperator)
	if err != nil {
		return nil, err
	}
	if claims.Subject != c.Account || claims.Issuer != operator {
		return nil, fmt.Errorf("account %s was signed by %s, and operator_seed is that of %s", claims.Subject, claims.Issuer, operator)
	}
	return claims, nil
}

// verify that the configuration is good for what it is for.
func (c *config) verify(ctx context.Context) error {
	connection, err := c.connect()
	if err != nil {
		return err
	}
	defer connection.Close()
	claims, err := c.lookup(ctx, connection)
	if err != nil {
		return err
	}
	_, public, err := pairOf("signing_seed", c.SigningSeed, nkeys.PrefixByteAccount)
	if err == nil && !claims.SigningKeys.Contains(public) {
		return fmt.Errorf("account %s does not have the signing key %s", c.Account, public)
	}
	return err
}

// reconcile has the account know the signing keys and the revocations, and pushes it when it did not.
func (c *config) reconcile(ctx context.Context, revoked map[string]revocation, now time.Time) error {
	connection, err := c.connect()
	if err != nil {
		return err
	}
	defer connection.Close()
	claims, err := c.lookup(ctx, connection)
	if err != nil {
		return err
	}
	changed, err := c.amend(claims, revoked, now)
	if err != nil || !changed {
		return err
	}
	// Of two versions the servers keep the one with the later second.
	select {
	case <-time.After(time.Until(time.Unix(claims.IssuedAt+1, 0))):
	case <-ctx.Done():
		return ctx.Err()
	}
	pair, _, err := pairOf("operator_seed", c.OperatorSeed, nkeys.PrefixByteOperator)
	if err != nil {
		return err
	}
	defer pair.Wipe()
	token, err := claims.Encode(pair)
	if err != nil {
		return fmt.Errorf("sign account %s: %w", c.Account, err)
	}
	return update(ctx, connection, token)
}

// amend says whether it changed anything.
func (c *config) amend(claims *jwt.AccountClaims, revoked map[string]revocation, now time.Time) (changed bool, err error) {
	_, current, err := pairOf("signing_seed", c.SigningSeed, nkeys.PrefixByteAccount)
	if err != nil {
		return false, err
	}
	wanted := []string{current}
	for _, r := range c.Retired {
		if now.Before(r.Until) {
			wanted = append(wanted, r.Public)
		} else if claims.SigningKeys.Contains(r.Public) && r.Public != current {
			claims.SigningKeys.Remove(r.Public)
			changed = true
		}
	}
	for _, key := range wanted {
		if !claims.SigningKeys.Contains(key) {
			claims.SigningKeys.Add(key)
			changed = true
		}
	}
	for key, r := range revoked {
		at, has := claims.Revocations[key]
		switch {
		case now.After(r.Expires) && has:
			delete(claims.Revocations, key)
			changed = true
		case now.Before(r.Expires) && (!has || at < r.At.Unix()):
			claims.RevokeAt(key, r.At)
			changed = true
		}
	}
	return changed, nil
}

// update has every server that answers take the account.
func update(ctx context.Context, connection *nats.Conn, token string) error {
	inbox := connection.NewRespInbox()
	answers, err := connection.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer func() { _ = answers.Unsubscribe() }()
	if err := connection.PublishRequest("$SYS.REQ.CLAIMS.UPDATE", inbox, []byte(token)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var took []string
	for {
		// Who is a little later than the first has it from the others in any case.
		wait := ctx
		if len(took) > 0 {
			short, cancel := context.WithTimeout(ctx, 150*time.Millisecond)
			defer cancel()
			wait = short
		}
		m, err := answers.NextMsgWithContext(wait)
		if err != nil && len(took) > 0 && ctx.Err() == nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("push the account to the servers: %w", err)
		}
		var answer struct {
			Server struct{ Name string }
			Data   struct{ Code int }
			Error  *struct{ Description string }
		}
		if err := json.Unmarshal(m.Data, &answer); err != nil {
			return fmt.Errorf("push the account to the servers: %w", err)
		}
		if answer.Error != nil {
			return fmt.Errorf("server %s refuses the account: %s", answer.Server.Name, answer.Error.Description)
		}
		if !slices.Contains(took, answer.Server.Name) {
			took = append(took, answer.Server.Name)
		}
	}
}
