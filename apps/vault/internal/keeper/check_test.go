package keeper

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// standIn is a Vault that lets everybody in; write is what it does with a secret.
func standIn(t *testing.T, write func(value string)) *Keeper {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/auth/kubernetes/login", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"auth": {"client_token": "t"}}`)
	})
	mux.HandleFunc("PUT /v1/auth/token/revoke-self", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("PUT /v1/"+deliverSecret, func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Data struct{ Value string } }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		write(in.Data.Value)
		_, _ = io.WriteString(w, `{"data": {"version": 1}}`)
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("jwt"), 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := New(slog.New(slog.NewTextHandler(t.Output(), nil)), Options{
		Address: s.URL, TokenFile: token, Role: "deliver", File: filepath.Join(dir, "value"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestDeliver(t *testing.T) {
	var k *Keeper
	put := func(value string) {
		if err := os.WriteFile(k.o.File, []byte(value), 0o600); err != nil {
			t.Error(err)
		}
	}
	for name, tt := range map[string]struct {
		write func(value string)
		want  string
	}{
		"delivered":    {put, "succeeded"},
		"an older one": {func(string) { put("older") }, "it has another value"},
		"none at all":  {func(string) {}, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			k = standIn(t, tt.write)
			ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
			defer cancel()
			var out bytes.Buffer
			err := k.Deliver(ctx, &out)
			if (err == nil) != (tt.want == "succeeded") || !strings.Contains(out.String(), tt.want) {
				t.Errorf("%v: %s; want %s", err, out.String(), tt.want)
			}
		})
	}
}

func TestReport(t *testing.T) {
	var out bytes.Buffer
	fine := func(context.Context, *api.Client) (string, error) { return "fine", nil }
	absent := func(context.Context, *api.Client) (string, error) { return "", skippedError{"no NATS"} }
	broken := func(context.Context, *api.Client) (string, error) { return "", errors.New("broken") }
	run := func(f checkFunc) (string, error) { return f(t.Context(), nil) }
	if err := report(&out, []check{{"a", fine}, {"b", absent}}, run); err != nil {
		t.Errorf("what was skipped has not failed: %v", err)
	}
	if err := report(&out, []check{{"c", broken}}, run); err == nil {
		t.Error("a failure is no error")
	}
	var states []string
	for line := range strings.Lines(out.String()) {
		var r result
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		states = append(states, r.Name+" "+r.State)
	}
	if got := strings.Join(states, ", "); got != "a succeeded, b skipped, c failed" {
		t.Error(got)
	}
}

func TestHasNATS(t *testing.T) {
	var skipped skippedError
	for url, skip := range map[string]bool{"": true, "nats://nats.invalid:4222": true, "nats://127.0.0.1:4222": false} {
		err := (&Keeper{o: Options{NATS: url}}).hasNATS(t.Context())
		if errors.As(err, &skipped) != skip {
			t.Errorf("%q: %v, skipped should be %t", url, err, skip)
		}
	}
	if err := (&Keeper{o: Options{NATS: "nats"}}).hasNATS(t.Context()); err == nil || errors.As(err, &skipped) {
		t.Errorf("no URL: %v", err)
	}
}

// FuzzLoad: whatever is in a file, it is refused or has all that it needs.
func FuzzLoad(f *testing.F) {
	f.Add([]byte("mounts: {kv: {type: kv}}\nwrite: [{path: a, data: {b: [1]}}]"))
	f.Add([]byte("policies: {a: b}\nauth: {k: {type: jwt, config: {ttl: 1s}}}"))
	f.Add([]byte("{"))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "a.yaml"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		d, _, err := load(dir)
		if err != nil {
			return
		}
		for _, w := range d.Write {
			if w.Path == "" {
				t.Error("a request without a path is taken")
			}
		}
		for name, m := range d.Mounts {
			if m.Type == "" {
				t.Errorf("engine %q without a type is taken", name)
			}
		}
	})
}
