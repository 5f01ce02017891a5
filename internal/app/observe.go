package app

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/observe"
)

// observed connects to the cluster of an existing environment, to ask its observability.
// The caller closes the client.
func (o *options) observed(ctx context.Context) (*environment.Environment, *kube.Client, error) {
	e, err := o.existing()
	if err != nil {
		return nil, nil, err
	}
	client, err := e.Kube(ctx)
	return e, client, err
}

// span is a length of time as people write it on the command line: 15m, 2h, 7d.
type span time.Duration

func (s *span) Set(text string) error {
	days := time.Duration(0)
	if head, rest, ok := strings.Cut(text, "d"); ok {
		var n int
		if _, err := fmt.Sscanf(head, "%d", &n); err != nil || fmt.Sprint(n) != head {
			return fmt.Errorf("want a duration such as 15m, 2h or 7d")
		}
		days, text = time.Duration(n)*24*time.Hour, rest
		if text == "" {
			text = "0s"
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d+days <= 0 {
		return fmt.Errorf("want a duration such as 15m, 2h or 7d")
	}
	*s = span(d + days)
	return nil
}

func (s *span) String() string {
	if *s == 0 {
		return ""
	}
	text := time.Duration(*s).String()
	text = strings.TrimSuffix(text, "m0s") + strings.Repeat("m", strings.Count(text, "m0s"))
	return strings.TrimSuffix(text, "h0m") + strings.Repeat("h", strings.Count(text, "h0m"))
}

func (s *span) Type() string { return "duration" }

func spanFlag(c *cobra.Command, s *span, name, usage string) {
	c.Flags().Var(s, name, usage)
}

// last is the range that a span ends now.
func (s span) last() observe.Range { return observe.Last(time.Duration(s)) }
