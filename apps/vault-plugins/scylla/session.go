package scylla

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	gocql "github.com/apache/cassandra-gocql-driver/v2"
)

// session runs statements.
type session interface {
	exec(ctx context.Context, statement string) error
	close()
}

type cql struct{ *gocql.Session }

// open logs in as the role that makes the others.
func open(c *config) (session, error) {
	cluster := gocql.NewCluster(c.Hosts...)
	cluster.ProtoVersion = 4 // the newest that ScyllaDB speaks
	cluster.NumConns = 1
	cluster.Timeout, cluster.ConnectTimeout = 10*time.Second, 5*time.Second
	cluster.Metadata.CacheMode = gocql.Disabled
	cluster.Authenticator = gocql.PasswordAuthenticator{Username: c.Username, Password: c.Password}
	if c.CA != "" {
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(c.CA)) {
			return nil, errors.New("ca holds no certificate")
		}
		cluster.SslOpts = &gocql.SslOptions{Config: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, EnableHostVerification: true}
	}
	s, err := cluster.CreateSession()
	if err != nil {
		return nil, fmt.Errorf("log in to ScyllaDB at %s as %s: %w", strings.Join(c.Hosts, ", "), c.Username, err)
	}
	return cql{s}, nil
}

func (s cql) exec(ctx context.Context, statement string) error {
	return s.Query(statement).Consistency(gocql.LocalQuorum).ExecContext(ctx)
}

func (s cql) close() { s.Close() }

// newPassword has letters and digits only: it stands in a statement, between quotes.
func newPassword() string { return rand.Text() + rand.Text() }
