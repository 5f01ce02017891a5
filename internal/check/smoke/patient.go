package smoke

import (
	"context"
	"errors"
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

// again calls f until it returns what asking once more would not change, or [settle] has passed.
func again[T any](ctx context.Context, f func() (T, error)) (result T, err error) {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	err = check.Until(ctx, check.Pause{First: 50 * time.Millisecond, Most: 2 * time.Second}, func() (err error) {
		if result, err = f(); err != nil && !kube.Transient(err) {
			err = check.Final(err)
		}
		return err
	})
	return result, err
}
