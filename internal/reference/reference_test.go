package reference

import (
	"errors"
	"strings"
	"testing"
)

var sum = "sha256:" + strings.Repeat("0f", 32)

func TestParse(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"nginx", "docker.io/library/nginx"},
		{"grafana/grafana:12.0", "docker.io/grafana/grafana:12.0"},
		{"docker.io/grafana/grafana:12@" + sum, "docker.io/grafana/grafana:12@" + sum},
		{"registry.orrery.internal/nats@" + sum, "registry.orrery.internal/nats@" + sum},
		{"localhost/a/b", "localhost/a/b"},
		{"127.0.0.1:5000/x:1", "127.0.0.1:5000/x:1"},
		{"[::1]:5000/x@" + sum, "[::1]:5000/x@" + sum},
		{"a/b__c/d-e--f:V1_x", "docker.io/a/b__c/d-e--f:V1_x"},
	} {
		r, err := Parse(c.in)
		if err != nil || r.String() != c.want {
			t.Errorf("Parse(%q) = %q, %v; want %q", c.in, r, err, c.want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", "the path must be"},
		{"https://ghcr.io/x", "must not name a scheme"},
		{"ghcr.io/X@" + sum, "the path must be"},
		{"ghcr.io/x@sha256:12", "what follows @"},
		{"ghcr.io/x@" + strings.ToUpper(sum), "what follows @"},
		{"ghcr.io/x@" + sum + "@" + sum, "what follows @"},
		{"ghcr.io/x:", "the tag must be"},
		{"ghcr.io/x:a b", "the tag must be"},
		{"ghcr.io//x", "the path must be"},
		{"ghcr.io/x/", "the path must be"},
		{"-bad.io/x", "is no host"},
		{"ghcr.io:port/x", "is no host"},
		{"ghcr.io/" + strings.Repeat("a/", 200) + "a", "at most 255"},
		{"a\nb", "the path must be"},
	} {
		if _, err := Parse(c.in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Parse(%q): %v, want %q", c.in, err, c.want)
		}
	}
}

func TestParsePinned(t *testing.T) {
	if _, err := ParsePinned("ghcr.io/x:1"); !errors.Is(err, ErrNoDigest) {
		t.Errorf("a tag alone: %v", err)
	}
	if r, err := ParsePinned("ghcr.io/x:1@" + sum); err != nil || r.Digest != sum {
		t.Errorf("%v, %v", r, err)
	}
}

func TestParsePrefix(t *testing.T) {
	for _, s := range []string{"ghcr.io/acme/orrery", "127.0.0.1:5000", "localhost:5000/x", "localhost", "ghcr.io"} {
		if err := ParsePrefix(s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{"", "acme/orrery", "https://ghcr.io/acme", "ghcr.io/acme:1", "ghcr.io/acme@" + sum, "ghcr.io/", "ghcr.io/Acme", "/ghcr.io", "ghcr.io/a/"} {
		if err := ParsePrefix(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"nginx", "ghcr.io/a/b:1@" + sum, "[::1]:1/x", "A/b", "@", ":", "/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_ = ParsePrefix(s)
		r, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(r.String())
		if err != nil || again != r {
			t.Errorf("%q → %q → %q, %v", s, r, again, err)
		}
	})
}
