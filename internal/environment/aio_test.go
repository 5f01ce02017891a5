package environment

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/check"
)

func TestAIO(t *testing.T) {
	for _, c := range []struct {
		limit, used string
		state       check.State
		says        string
	}{
		{"65536\n", "0\n", check.Succeeded, "0 of 65536"},
		{"65536\n", "32458\n", check.Succeeded, "32458 of 65536"},
		{"65536\n", "32459\n", check.Skipped, "sysctl -w fs.aio-max-nr=1048576"},
		{"2000000\n", "1999999\n", check.Skipped, "sysctl -w fs.aio-max-nr=2033078"},
		{"many\n", "0\n", check.Skipped, "cannot say"},
		{"", "", check.Skipped, "no such"},
	} {
		read := func(path string) ([]byte, error) {
			switch {
			case c.limit == "":
				return nil, errors.New("no such file")
			case strings.HasSuffix(path, "max-nr"):
				return []byte(c.limit), nil
			}
			return []byte(c.used), nil
		}
		conditions := aioConditions([]catalog.Component{{Name: "nats"}, {Name: "scylladb", AIO: 33078}}, read)
		if len(conditions) != 1 {
			t.Fatalf("%d conditions", len(conditions))
		}
		r := conditions[0].Probe(context.Background())
		if r.State != c.state || !strings.Contains(r.Message, c.says) {
			t.Errorf("%q of %q: %+v", c.used, c.limit, r)
		}
	}
	if c := aioConditions([]catalog.Component{{Name: "nats"}}, nil); c != nil {
		t.Errorf("nobody needs any, and it is asked for: %v", c)
	}
}
