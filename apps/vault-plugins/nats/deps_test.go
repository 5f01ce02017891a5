package nats

import (
	_ "github.com/apache/cassandra-gocql-driver/v2"
	_ "github.com/nats-io/jwt/v2"
	_ "github.com/nats-io/nats-server/v2/test"
	_ "github.com/nats-io/nats.go"
	_ "github.com/nats-io/nkeys"
	_ "go.uber.org/goleak"
)
