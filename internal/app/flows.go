package app

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/flow"
	"github.com/orrery-dev/orrery/internal/ui"
)

// flowOptions are what `flows` was asked.
type flowOptions struct {
	query    flow.Query
	verdicts []string
	since    span
	follow   bool
	last     bool // --last was given
}

func newFlows(o *options) *cobra.Command {
	f := flowOptions{since: span(5 * time.Minute)}
	c := &cobra.Command{
		Use:   "flows",
		Short: "What the network saw: which packets went where, which were dropped and why",
		Long: `Print what the network saw, oldest first, of all nodes: one line for a packet, or for the
many of a connection that look alike. A dropped one says why. Each node keeps some thousand.

It asks the nodes' agents for their flows (Hubble) and needs network.plugin cilium.`,
		Example: `  orrery flows --verdict DROPPED
  orrery flows --pod messaging/nats -F
  orrery flows --to messaging/nats-0 --port 4222 --since 15m -o json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			f.last = c.Flags().Changed("last")
			if c.Flags().Changed("since") {
				f.query.Since = time.Now().Add(-time.Duration(f.since))
			}
			return runFlows(c.Context(), o, f)
		},
	}
	fs := c.Flags()
	fs.StringVar(&f.query.Pod, "pod", "", "one end is this pod: NAMESPACE/NAME, or the beginning of it")
	fs.StringVar(&f.query.From, "from", "", "the source is this pod")
	fs.StringVar(&f.query.To, "to", "", "the destination is this pod")
	fs.StringVarP(&f.query.Namespace, "namespace", "n", "", "one end is in this namespace; with --pod,"+
		" --from and --to also the namespace of a bare name")
	fs.StringSliceVar(&f.verdicts, "verdict", nil, "what became of it: forwarded, dropped, redirected, audit, error, traced, translated")
	fs.StringSliceVar(&f.query.Protocols, "protocol", nil, "tcp, udp, sctp, icmp, icmpv4, icmpv6 or dns")
	fs.IntVar(&f.query.Port, "port", 0, "port of one end")
	fs.StringVar(&f.query.Node, "node", "", "seen by this node")
	fs.BoolVar(&f.query.All, "all", false, "also the verdicts of policies, which repeat packets,"+
		" and drops of protocols that nobody speaks here, such as IPv6")
	fs.Var(&f.since, "since", "nothing older, such as 90s, 15m or 2h")
	fs.IntVar(&f.query.Last, "last", 100, "how many at most: the newest (0: all that the nodes have kept)")
	fs.BoolVarP(&f.follow, "follow", "F", false, "go on until Ctrl-C")
	_ = c.RegisterFlagCompletionFunc("node", o.completeNodes)
	return c
}

func runFlows(ctx context.Context, o *options, f flowOptions) error {
	q := f.ask()
	if err := q.Check(); err != nil {
		return failure.Usage{Err: err}
	}
	e, err := o.existing()
	if err != nil {
		return err
	}
	if q.Node != "" {
		if err := e.KnownNode(q.Node); err != nil {
			return err
		}
	}
	var once sync.Mutex // nodes complain side by side
	source := e.Flows(func(node string, err error) {
		once.Lock()
		defer once.Unlock()
		fmt.Fprintf(o.err, "orrery: what %s saw is missing or not whole: %v\n", cmp.Or(node, "a node"), err)
	})
	var lines flowLines
	show := func(x flow.Flow) error { return lines.print(o.out, x) }
	if o.json() {
		show = func(x flow.Flow) error { return printJSON(o.out, x) }
	}
	if f.follow {
		err := source.Follow(ctx, q, show)
		if ctx.Err() != nil {
			return nil // Ctrl-C is how a person ends -F
		}
		return err
	}
	found, err := source.Read(ctx, q)
	if err != nil {
		return err
	}
	if !o.json() {
		if len(found) == 0 {
			fmt.Fprintln(o.err, "no flows")
			return nil
		}
		rows := make([][]string, len(found))
		for i, x := range found {
			rows[i] = flowRow(x)
		}
		return ui.Table(o.out, flowHeader, rows)
	}
	for _, x := range found {
		if err := show(x); err != nil {
			return err
		}
	}
	return nil
}

// ask is the query that is meant.
func (f flowOptions) ask() flow.Query {
	q := f.query
	for _, v := range f.verdicts {
		q.Verdicts = append(q.Verdicts, flow.Verdict(strings.ToUpper(v)))
	}
	q.Protocols = slices.Clone(q.Protocols)
	for i, p := range q.Protocols {
		q.Protocols[i] = strings.ToLower(p)
	}
	for _, pod := range []*string{&q.Pod, &q.From, &q.To} {
		if *pod != "" && q.Namespace != "" && !strings.Contains(*pod, "/") {
			*pod = q.Namespace + "/" + *pod
		}
	}
	if !f.last && (f.follow || !q.Since.IsZero()) {
		q.Last = 0
		if f.follow && q.Since.IsZero() {
			q.Last = 20
		}
	}
	return q
}

var flowHeader = []string{"TIME", "NODE", "SOURCE", "", "DESTINATION", "PROTOCOL", "VERDICT", "DETAIL"}

// flowRow is a flow for a person.
func flowRow(f flow.Flow) []string {
	return []string{
		f.Time.Local().Format("15:04:05.000"), f.Node, f.Source.Address(), "→", f.Destination.Address(),
		cmp.Or(f.Protocol, "other"), string(f.Verdict), flowDetail(f),
	}
}

func flowDetail(f flow.Flow) string {
	var parts []string
	add := func(s string) {
		if s != "" {
			parts = append(parts, s)
		}
	}
	if f.DropReason != "" {
		reason := f.DropReason
		if f.Direction != "" {
			reason += " at " + string(f.Direction)
		}
		add(reason)
	}
	if len(f.DeniedBy) > 0 {
		add("denied by " + strings.Join(f.DeniedBy, ", "))
	}
	if f.Service != "" {
		add("for service " + f.Service)
	}
	switch {
	case f.DNS != nil && f.DNS.Response:
		answer := strings.Join(f.DNS.IPs, ", ")
		if f.DNS.Code != 0 {
			answer = fmt.Sprintf("code %d", f.DNS.Code)
		}
		add("dns answer " + f.DNS.Query + " = " + cmp.Or(answer, "nothing"))
	case f.DNS != nil:
		add("dns " + strings.Join(f.DNS.Types, ",") + " " + f.DNS.Query)
	case strings.HasPrefix(f.Summary, "TCP Flags: "):
		add(strings.TrimPrefix(f.Summary, "TCP Flags: "))
	case f.Summary != f.Protocol:
		add(f.Summary)
	}
	if f.Reply {
		add("reply")
	}
	if f.DropReason == "" {
		add(f.Point)
	}
	return strings.Join(parts, ", ")
}

// flowLines prints rows that come one by one below each other: a column is as wide as its
// widest cell so far.
type flowLines struct{ widest []string }

func (l *flowLines) print(w io.Writer, f flow.Flow) error {
	row := flowRow(f)
	if l.widest == nil {
		l.widest = make([]string, len(row))
	}
	for i, cell := range row[:len(row)-1] {
		if n := utf8.RuneCountInString(cell); n > len(l.widest[i]) {
			l.widest[i] = strings.Repeat("x", n)
		}
	}
	var b strings.Builder
	if err := ui.Table(&b, nil, [][]string{l.widest, row}); err != nil {
		return err
	}
	_, line, _ := strings.Cut(b.String(), "\n")
	_, err := io.WriteString(w, line)
	return err
}
