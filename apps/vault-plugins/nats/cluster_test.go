package nats

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// cluster is NATS as the platform runs it: in operator mode, accounts on the servers' disks.
type cluster struct {
	t                           testing.TB
	operator, system, app, sign nkeys.KeyPair
	creds                       string // of a user of the system account
	options                     []*server.Options
	running                     []*server.Server
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func seedOf(pair nkeys.KeyPair) string   { return string(must(pair.Seed())) }
func publicOf(pair nkeys.KeyPair) string { return must(pair.PublicKey()) }

func startCluster(t testing.TB, servers int) *cluster {
	t.Helper()
	c := &cluster{
		t: t, operator: must(nkeys.CreateOperator()), system: must(nkeys.CreateAccount()), app: must(nkeys.CreateAccount()),
		sign: must(nkeys.CreateAccount()),
	}
	operator := jwt.NewOperatorClaims(publicOf(c.operator))
	operator.SystemAccount = publicOf(c.system)
	operatorToken := must(operator.Encode(c.operator))
	system := jwt.NewAccountClaims(publicOf(c.system))
	app := jwt.NewAccountClaims(publicOf(c.app))
	app.SigningKeys.Add(publicOf(c.sign))
	accounts := map[string]string{publicOf(c.system): must(system.Encode(c.operator)), publicOf(c.app): must(app.Encode(c.operator))}
	c.creds = c.userOf(c.system)

	dir := t.TempDir()
	var ports, routes []string
	for range servers {
		port := freePort(t)
		ports = append(ports, fmt.Sprint(port))
		routes = append(routes, fmt.Sprintf("nats-route://127.0.0.1:%d", port))
	}
	for i := range servers {
		var preload strings.Builder
		for key, token := range accounts {
			fmt.Fprintf(&preload, "%s: %q\n", key, token)
		}
		o := must(server.ProcessConfigFile(write(t, filepath.Join(dir, fmt.Sprintf("%d.conf", i)), fmt.Sprintf(`
			server_name: n%d
			listen: "127.0.0.1:%d"
			operator: %q
			system_account: %q
			resolver: {type: full, dir: %q, interval: "2s"}
			resolver_preload: {
				%s
			}
			cluster {name: test, listen: "127.0.0.1:%s", routes: [%s]}
		`, i, freePort(t), operatorToken, publicOf(c.system), filepath.Join(dir, fmt.Sprint("jwt", i)), preload.String(),
			ports[i], `"`+strings.Join(routes, `","`)+`"`))))
		o.NoSigs, o.NoLog = true, true
		c.options = append(c.options, o)
	}
	c.running = make([]*server.Server, servers)
	t.Cleanup(func() {
		for i := range c.running {
			c.kill(i)
		}
	})
	c.start()
	return c
}

// start what does not run, and wait until all know each other.
func (c *cluster) start() {
	c.t.Helper()
	for i, o := range c.options {
		if c.running[i] == nil {
			c.running[i] = must(server.NewServer(o.Clone()))
			c.running[i].Start()
		}
	}
	eventually(c.t, func() error {
		for i, s := range c.running {
			if !s.ReadyForConnections(time.Second) || s.NumRoutes() < len(c.running)-1 {
				return fmt.Errorf("server %d has %d routes", i, s.NumRoutes())
			}
		}
		return nil
	})
}

func (c *cluster) kill(i int) {
	if c.running[i] != nil {
		c.running[i].Shutdown()
		c.running[i].WaitForShutdown()
		c.running[i] = nil
	}
}

func (c *cluster) url(i int) string { return fmt.Sprintf("nats://127.0.0.1:%d", c.options[i].Port) }

func (c *cluster) urls() (all string) {
	for i := range c.options {
		all += "," + c.url(i)
	}
	return all[1:]
}

// userOf makes a user without limits, signed by a key.
func (c *cluster) userOf(signer nkeys.KeyPair) string {
	user := must(nkeys.CreateUser())
	return string(must(jwt.FormatUserConfig(must(jwt.NewUserClaims(publicOf(user)).Encode(signer)), must(user.Seed()))))
}

// login with credentials at one server.
func (c *cluster) login(i int, creds string, options ...nats.Option) (*nats.Conn, error) {
	connection, err := nats.Connect(c.url(i), append([]nats.Option{nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})},
		append(options, nats.UserCredentialBytes([]byte(creds)), nats.NoReconnect())...)...)
	if err == nil {
		c.t.Cleanup(connection.Close)
	}
	return connection, err
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func eventually(t testing.TB, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}
