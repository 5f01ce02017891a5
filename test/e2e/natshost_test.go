package e2e

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// natsFromHost is a program on this host that knows what `orrery env` says, and nothing else.
func natsFromHost(t *testing.T, e *environment) {
	variables := func() map[string]string {
		return decode[map[string]string](t, e.run(t, "env", "-o", "json"))
	}
	_, stop := opening(t, e, "open", "nats")
	vars := variables()
	connect := func(options ...nats.Option) error {
		conn, err := nats.Connect(vars["NATS_URL"], append(options, nats.NoReconnect(), nats.Timeout(10*time.Second))...)
		if err != nil {
			return err
		}
		defer conn.Close()
		sub, err := conn.SubscribeSync("e2e.host")
		if err != nil {
			return err
		}
		if err := conn.Publish("e2e.host", []byte("hello")); err != nil {
			return err
		}
		_, err = sub.NextMsg(10 * time.Second)
		return err
	}
	if err := connect(nats.UserCredentials(vars["NATS_CREDS"]), nats.RootCAs(vars["NATS_CA"])); err != nil {
		t.Errorf("with %v: %v", vars, err)
	}
	if err := connect(nats.RootCAs(vars["NATS_CA"])); err == nil {
		t.Error("NATS let in who has no credential")
	}
	if err := connect(nats.UserCredentials(vars["NATS_CREDS"])); err == nil {
		t.Error("this host trusts the environment's authority, and nobody asked for that")
	}
	stop()
	if vars := variables(); vars["NATS_URL"] != "" {
		t.Errorf("NATS is not open any more, and env says %v", vars)
	}
}
