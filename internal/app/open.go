package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/observe"
)

// openable is what a person can reach from the host, and where it is in the cluster.
type openable struct {
	namespace, service string
	port               int
	scheme, path       string // no scheme: there is no URL for it
	hint               string // what else there is to know; %s is NAME of the secret's environment flag
}

// openables by name. The console is not among them: it is served by this program.
var openables = map[string]openable{
	"grafana": {observe.Namespace, "grafana", 3000, "http", "/", "user admin, password:" +
		" orrery kubectl%s get secret -n observability grafana-admin -o go-template='{{.data.password|base64decode}}'"},
	"prometheus": {observe.Namespace, "prometheus", 9090, "https", "/", "the API; this build of Prometheus has no" +
		" pages, see 'orrery console%s'"},
	"alertmanager": {observe.Namespace, "alertmanager", 9093, "https", "/", ""},
	natsName: {"messaging", "nats", 4222, "nats", "", "the user's credentials (.creds):" +
		" orrery kubectl%s get secret -n messaging nats-app -o go-template='{{index .data \"app.creds\"|base64decode}}'"},
}

const (
	consoleName = "console"
	natsName    = "nats"
)

// openableNames are what can be opened by a name alone.
func openableNames() []string { return append(slices.Sorted(maps.Keys(openables)), consoleName) }

// opened is what `open -o json` prints; its form is a contract.
type opened struct {
	Name string `json:"name"`
	// Address is 127.0.0.1:PORT. The console has none: it answers under its URL alone.
	Address string `json:"address,omitempty"`
	URL     string `json:"url,omitempty"`
	// Credentials and Authority are files for programs that log in to NATS.
	Credentials string `json:"credentials,omitempty"`
	Authority   string `json:"authority,omitempty"`
}

func newOpen(o *options) *cobra.Command {
	var port int
	c := &cobra.Command{
		Use:   "open NAMESPACE/SERVICE[:PORT] | " + strings.Join(openableNames(), "|"),
		Short: "Make a service reachable on 127.0.0.1 until Ctrl-C",
		Long: `Listen on 127.0.0.1, and there only, print the address, and bring every connection to a
ready pod of the service until Ctrl-C. A pod that goes away is replaced by the next one.

Any service of the cluster can be opened as NAMESPACE/SERVICE, with the name or number of its
port where it has several. Nothing has to be exposed for that: type ClusterIP is enough, and
network policies need not allow it. What is printed is a URL where the port speaks HTTP by its
appProtocol, name or number, else 127.0.0.1:PORT. It carries TCP. Whoever can reach 127.0.0.1
on this machine can use it.

For NATS there are files as well while it is open: a credential for the account of applications,
which ends after a day, and the authority that the servers' certificate ends at. 'orrery env'
prints their paths.`,
		Example: `  orrery open apps/hello
  orrery open apps/hello:admin --port 8080
  orrery open prometheus
  orrery open nats              # and in another shell: eval "$(orrery env)"
  orrery open console`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.completeOpenables,
		RunE: func(c *cobra.Command, args []string) error {
			if port < 0 || port > 65535 {
				return failure.Usagef("--port must be from 0 to 65535, got %d", port)
			}
			if args[0] == consoleName {
				return runConsole(c.Context(), o, consoleOptions{port: port})
			}
			return runOpen(c.Context(), o, args[0], port)
		},
	}
	c.Flags().IntVar(&port, "port", 0, "port of 127.0.0.1 to listen on (default: a free one)")
	return c
}

func runOpen(ctx context.Context, o *options, name string, port int) (result error) {
	what, known := openables[name]
	which := ""
	if !known {
		var err error
		if what.namespace, what.service, which, err = parseService(name); err != nil {
			return err
		}
	}
	e, client, err := o.observed(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	if known {
		which = fmt.Sprint(what.port)
	}
	found, err := client.ServicePort(ctx, what.namespace, what.service, which)
	switch {
	case apierrors.IsNotFound(err) && known:
		return fmt.Errorf("%s is not there (see 'orrery status%s'): %w", name, e.Flag(), err)
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w (see 'orrery kubectl%s get services -A')", err, e.Flag())
	case err != nil:
		return err
	case !known:
		what.port, what.scheme, what.path = found.Port, found.Scheme, "/"
	}
	l, err := listenLocal(port)
	if err != nil {
		return fmt.Errorf("%w; choose another with --port", err)
	}
	at := opened{Name: name, Address: l.Addr().String(), URL: what.url(l.Addr())}
	if name == natsName {
		access, end, err := e.OfferNATS(ctx, client, at.URL)
		if err != nil {
			fmt.Fprintf(o.err, "note: there are no files for programs: %v\n", err)
		} else {
			defer func() { result = errors.Join(result, end()) }()
			at.Credentials, at.Authority = access.Credentials, access.Authority
			what.hint = "credentials (for a day) and authority: " + at.Credentials + ", " + at.Authority + "\n" +
				`in another shell: eval "$(orrery env%s)" sets NATS_URL, NATS_CREDS and NATS_CA to them`
		}
	}
	if o.json() {
		err = printJSON(o.out, at)
	} else {
		_, err = fmt.Fprintf(o.out, "%s\n", cmp.Or(at.URL, at.Address))
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

// parseService reads NAMESPACE/SERVICE[:PORT]; which is a name or a number, or empty.
func parseService(text string) (namespace, service, which string, err error) {
	name, which, colon := strings.Cut(text, ":")
	namespace, service, slash := strings.Cut(name, "/")
	if !slash || namespace == "" || service == "" || strings.Contains(service, "/") || colon && which == "" {
		return "", "", "", failure.Usagef("invalid argument %q: want NAMESPACE/SERVICE[:PORT], such as apps/hello, or one of %s",
			text, strings.Join(openableNames(), ", "))
	}
	return namespace, service, which, nil
}

// completeOpenables offers names, and the services of a cluster that answers soon.
func (o *options) completeOpenables(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return append(openableNames(), o.services(c.Context())...), cobra.ShellCompDirectiveNoFileComp
}

// services are those of the cluster as NAMESPACE/NAME, or none.
func (o *options) services(ctx context.Context) (names []string) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_, client, err := o.observed(ctx)
	if err != nil {
		return nil
	}
	defer client.Close()
	found, err := client.List(ctx, "v1", "Service", "", "")
	if err != nil {
		return nil
	}
	for _, s := range found {
		names = append(names, s.GetNamespace()+"/"+s.GetName())
	}
	return names
}

func (w openable) url(addr net.Addr) string {
	if w.scheme == "" {
		return ""
	}
	return w.scheme + "://" + addr.String() + w.path
}

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
