package app

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/observe"
)

// openable is what a person can reach from the host, and where it is in the cluster.
type openable struct {
	namespace, service string
	port               int
	scheme, path       string
	hint               string // what else there is to know; %s is NAME of the secret's environment flag
}

// openables by name. The console is not among them: it is served by this program.
var openables = map[string]openable{
	"grafana": {observe.Namespace, "grafana", 3000, "http", "/", "user admin, password:" +
		" orrery kubectl%s get secret -n observability grafana-admin -o go-template='{{.data.password|base64decode}}'"},
	"prometheus": {observe.Namespace, "prometheus", 9090, "http", "/", "the API; this build of Prometheus has no" +
		" pages, see 'orrery console%s'"},
	"alertmanager": {observe.Namespace, "alertmanager", 9093, "http", "/", ""},
	"nats": {"messaging", "nats", 4222, "nats", "", "the user's seed:" +
		" orrery kubectl%s get secret -n messaging nats-app -o go-template='{{index .data \"app.seed\"|base64decode}}'"},
}

// opened is what `open -o json` prints; its form is a contract.
type opened struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

func newOpen(o *options) *cobra.Command {
	var port int
	names := append(slices.Sorted(maps.Keys(openables)), "console")
	c := &cobra.Command{
		Use:   "open " + strings.Join(names, "|"),
		Short: "Make a service reachable on 127.0.0.1 until Ctrl-C",
		Long: `Listen on 127.0.0.1, and there only, print the address, and bring every connection to a
ready pod of the service until Ctrl-C. A pod that goes away is replaced by the next one.`,
		Example: `  orrery open prometheus
  orrery open nats --port 4222
  orrery open console`,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: names,
		RunE: func(c *cobra.Command, args []string) error {
			if port < 0 || port > 65535 {
				return failure.Usagef("--port must be from 0 to 65535, got %d", port)
			}
			if args[0] == "console" {
				return runConsole(c.Context(), o, consoleOptions{port: port})
			}
			return runOpen(c.Context(), o, args[0], port)
		},
	}
	c.Flags().IntVar(&port, "port", 0, "port of 127.0.0.1 to listen on (default: a free one)")
	return c
}

func runOpen(ctx context.Context, o *options, name string, port int) error {
	e, client, err := o.observed(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	what := openables[name]
	if _, err := client.Get(ctx, "v1", "Service", what.namespace, what.service); err != nil {
		return fmt.Errorf("%s is not there (see 'orrery status%s'): %w", name, e.Flag(), err)
	}
	l, err := listenLocal(port)
	if err != nil {
		return err
	}
	url := what.url(l.Addr())
	if o.json() {
		err = printJSON(o.out, opened{name, url})
	} else {
		_, err = fmt.Fprintf(o.out, "%s\n", url)
		if what.hint != "" {
			fmt.Fprintf(o.err, "%s\n", strings.ReplaceAll(what.hint, "%s", e.Flag()))
		}
		fmt.Fprintln(o.err, "until Ctrl-C")
	}
	if err != nil {
		l.Close()
		return err
	}
	return client.Tunnel(ctx, l, what.namespace, what.service, what.port, o.tellOnce())
}

func (w openable) url(addr net.Addr) string { return w.scheme + "://" + addr.String() + w.path }

func listenLocal(port int) (net.Listener, error) {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, fmt.Errorf("listen on 127.0.0.1: %w", err)
	}
	return l, nil
}

// tellOnce prints an error unless it is the one before: a browser asks often.
func (o *options) tellOnce() func(error) {
	said := make(chan string, 1)
	said <- ""
	return func(err error) {
		last := <-said
		if err.Error() != last {
			fmt.Fprintln(o.err, "orrery: "+err.Error())
		}
		said <- err.Error()
	}
}
