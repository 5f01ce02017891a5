package smoke

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/orrery-dev/orrery/internal/check"
)

// shaky loses the first answers of every kind of request.
type shaky struct {
	API
	err  error
	lost map[string]int // how many answers of which request
}

func (s shaky) lose(what string) error {
	if s.lost[what] == 0 {
		return nil
	}
	s.lost[what]--
	return s.err
}

func (s shaky) Get(ctx context.Context, apiVersion, kind, namespace, name string) (*unstructured.Unstructured, error) {
	if err := s.lose("get"); err != nil {
		return nil, err
	}
	return s.API.Get(ctx, apiVersion, kind, namespace, name)
}

// Create makes the object; it is the answer that gets lost.
func (s shaky) Create(ctx context.Context, obj *unstructured.Unstructured) error {
	if _, err := s.API.Get(ctx, obj.GetAPIVersion(), obj.GetKind(), obj.GetNamespace(), obj.GetName()); err == nil {
		return apierrors.NewAlreadyExists(schema.GroupResource{Resource: "pods"}, obj.GetName())
	}
	return errors.Join(s.API.Create(ctx, obj), s.lose("create"))
}

func (s shaky) Delete(ctx context.Context, apiVersion, kind, namespace, name string, grace int64) error {
	return errors.Join(s.API.Delete(ctx, apiVersion, kind, namespace, name, grace), s.lose("delete"))
}

func (s shaky) RawGet(ctx context.Context, path string) ([]byte, error) {
	if err := s.lose("raw"); err != nil {
		return nil, err
	}
	return s.API.RawGet(ctx, path)
}

func (s shaky) PortForward(ctx context.Context, namespace, pod string, port int) (string, func(), error) {
	if err := s.lose("forward"); err != nil {
		return "", nil, err
	}
	return s.API.PortForward(ctx, namespace, pod, port)
}

func (s shaky) Exec(ctx context.Context, namespace, pod, container string, cmd []string, stdin io.Reader, stdout, stderr io.Writer) error {
	if err := s.lose("exec"); err != nil {
		return err
	}
	return s.API.Exec(ctx, namespace, pod, container, cmd, stdin, stdout, stderr)
}

// After `stop` and `up` pods are called Ready that their nodes do not know yet: the first
// connections are waited for, by every check.
func TestPatientWaitsForPods(t *testing.T) {
	unknown := errors.New(`forward to port 4222 of pod messaging/nats-0: error upgrading connection: unable to upgrade connection: pod not found ("nats-0_messaging")`)
	f, _ := newFake(t)
	f.forwards = map[string]string{"nats-0:4222": "127.0.0.1:1"}
	f.exec = func(string, string) (string, error) { return "", nil }
	p := patient{shaky{f, unknown, map[string]int{"forward": 2, "exec": 2}}}
	if _, _, err := p.PortForward(t.Context(), "messaging", "nats-0", 4222); err != nil {
		t.Errorf("forward: %v", err)
	}
	run := func(p patient) error {
		return p.Exec(t.Context(), "apps", "x", "probe", []string{"/probe"}, nil, io.Discard, io.Discard)
	}
	if err := run(p); err != nil {
		t.Errorf("exec: %v", err)
	}
	// A command that began is not begun again.
	for _, err := range []error{errors.New("command terminated with exit code 1"), io.ErrUnexpectedEOF} {
		if got := run(patient{shaky{f, err, map[string]int{"exec": 1}}}); !errors.Is(got, err) {
			t.Errorf("exec that fails with %v: %v", err, got)
		}
	}
}

// What probe is asked may be asked twice, so a connection that breaks while it answers is no
// finding; what it answers is.
func TestProbeIsAskedAgain(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{io.ErrUnexpectedEOF, ""},
		{errors.New("unexpected error when reading response body. Please retry. Original error: http2: client connection force closed via ClientConn.Close"), ""},
		{errors.New("command terminated with exit code 1"), "exit code 1"},
	} {
		f, env := newFake(t)
		f.exec = func(string, string) (string, error) { return "10.0.0.1", nil }
		env.Client = shaky{f, fmt.Errorf("run %q in pod apps/x: %w", "/probe", tt.err), map[string]int{"exec": 1}}
		got, err := (&sandbox{env: env}).exec(t.Context(), "x", "lookup", "kubernetes")
		switch {
		case tt.want == "" && (err != nil || got != "10.0.0.1"):
			t.Errorf("after %v: %q, %v", tt.err, got, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("got %q, %v; want an error with %q", got, err, tt.want)
		}
	}
}

func TestPatient(t *testing.T) {
	broken := fmt.Errorf("create Pod apps/x: Post \"https://127.0.0.1/\": %w", io.ErrUnexpectedEOF)
	busy := apierrors.NewServiceUnavailable("from the test")
	for _, err := range []error{broken, busy} {
		f, env := newFake(t)
		s := shaky{f, err, map[string]int{"get": 1, "create": 1, "delete": 2}}
		p := patient{s}
		if _, err := p.Get(t.Context(), "v1", "Namespace", "", "apps"); err != nil {
			t.Errorf("get: %v", err)
		}
		pod := harmlessPod("registry.orrery.internal/probe:test")
		pod.SetName("x")
		pod.SetNamespace("apps")
		if err := p.Create(t.Context(), pod); err != nil {
			t.Errorf("create whose answer got lost: %v", err)
		}
		if err := p.Create(t.Context(), pod); !apierrors.IsAlreadyExists(err) {
			t.Errorf("create what somebody else made: %v", err)
		}
		if err := p.Delete(t.Context(), "v1", "Pod", "apps", "x", -1); err != nil {
			t.Errorf("delete: %v", err)
		}
		// What is not there is an answer.
		if _, err := p.Get(t.Context(), "v1", "Pod", "apps", "x"); !apierrors.IsNotFound(err) {
			t.Errorf("get what was deleted: %v", err)
		}
		// The check that once failed a whole `up` over this.
		env.Client = shaky{f, err, map[string]int{"create": 2}}
		f.admit = func(*unstructured.Unstructured) error {
			return apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "x", errors.New("violates PodSecurity; exceeded quota"))
		}
		for _, c := range Checks(env)["namespaces"]("namespaces") {
			if r := check.Await(t.Context(), c, nil); r.State != check.Succeeded {
				t.Errorf("%s with %v: %+v", c.Name, err, r)
			}
		}
	}

	// What a path answers is for the check; that it got no answer is not.
	f, _ := newFake(t)
	s := shaky{f, busy, map[string]int{"raw": 1}}
	if _, err := (patient{s}).RawGet(t.Context(), "/readyz"); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("a path that answered 503: %v", err)
	}
	s = shaky{f, broken, map[string]int{"raw": 1}}
	if got, err := (patient{s}).RawGet(t.Context(), "/readyz"); err != nil || string(got) != "ok" {
		t.Errorf("a path that gave no answer at first: %q, %v", got, err)
	}
}
