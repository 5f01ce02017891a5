package smoke

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/kube"
)

// patient repeats requests that met a broken connection or a busy server: an API server that
// goes away, or is taken for gone on a starved machine, takes what was under way with it, and
// that says nothing about what is checked. All that it repeats may be done twice.
type patient struct{ API }

func (p patient) Get(ctx context.Context, apiVersion, kind, namespace, name string) (*unstructured.Unstructured, error) {
	return again(ctx, func() (*unstructured.Unstructured, error) { return p.API.Get(ctx, apiVersion, kind, namespace, name) })
}

func (p patient) List(ctx context.Context, apiVersion, kind, namespace, labelSelector string) ([]unstructured.Unstructured, error) {
	return again(ctx, func() ([]unstructured.Unstructured, error) {
		return p.API.List(ctx, apiVersion, kind, namespace, labelSelector)
	})
}

// Create may find what it has made itself in an attempt whose answer got lost: that is success.
func (p patient) Create(ctx context.Context, obj *unstructured.Unstructured) error {
	attempts := 0
	_, err := again(ctx, func() (any, error) {
		attempts++
		err := p.API.Create(ctx, obj.DeepCopy())
		if attempts > 1 && apierrors.IsAlreadyExists(err) {
			err = nil
		}
		return nil, err
	})
	return err
}

func (p patient) DryRun(ctx context.Context, obj *unstructured.Unstructured) error {
	_, err := again(ctx, func() (any, error) { return nil, p.API.DryRun(ctx, obj) })
	return err
}

func (p patient) Delete(ctx context.Context, apiVersion, kind, namespace, name string, graceSeconds int64) error {
	_, err := again(ctx, func() (any, error) {
		return nil, p.API.Delete(ctx, apiVersion, kind, namespace, name, graceSeconds)
	})
	return err
}

func (p patient) MergePatch(ctx context.Context, ref kube.Ref, change map[string]any) error {
	_, err := again(ctx, func() (any, error) { return nil, p.API.MergePatch(ctx, ref, change) })
	return err
}

// RawGet repeats only what got no answer: what a path answers is for the check to judge.
func (p patient) RawGet(ctx context.Context, path string) ([]byte, error) {
	var answer []byte
	var refused error
	_, err := again(ctx, func() (any, error) {
		var err error
		answer, err = p.API.RawGet(ctx, path)
		if status := apierrors.APIStatus(nil); errors.As(err, &status) {
			refused, err = err, nil
		}
		return nil, err
	})
	return answer, errors.Join(err, refused)
}

// PortForward repeats what did not reach the pod.
func (p patient) PortForward(ctx context.Context, namespace, pod string, port int) (addr string, stop func(), err error) {
	_, err = againIf(ctx, unreached, func() (any, error) {
		var err error
		addr, stop, err = p.API.PortForward(ctx, namespace, pod, port)
		return nil, err
	})
	return addr, stop, err
}

// Exec repeats only what did not reach the pod: a command that began may have done its work.
// Who runs what may be run twice, asks again; see execIn.
func (p patient) Exec(ctx context.Context, namespace, pod, container string, cmd []string, stdin io.Reader, stdout,
	stderr io.Writer) error {
	_, err := againIf(ctx, unreached, func() (any, error) {
		return nil, p.API.Exec(ctx, namespace, pod, container, cmd, stdin, stdout, stderr)
	})
	return err
}

// unreached tells a connection to a pod that was never made. Right after a start the API calls
// pods Ready that their nodes have not even looked at yet.
func unreached(err error) bool {
	return strings.Contains(err.Error(), "unable to upgrade connection") || strings.Contains(err.Error(), "error dialing backend")
}

// again calls f until it returns what asking once more would not change, or [settle] has passed.
func again[T any](ctx context.Context, f func() (T, error)) (result T, err error) {
	return againIf(ctx, kube.Transient, f)
}

func againIf[T any](ctx context.Context, passing func(error) bool, f func() (T, error)) (result T, err error) {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	err = check.Until(ctx, check.Pause{First: 50 * time.Millisecond, Most: 2 * time.Second}, func() (err error) {
		if result, err = f(); err != nil && !passing(err) {
			err = check.Final(err)
		}
		return err
	})
	return result, err
}
