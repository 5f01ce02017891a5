package smoke

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// A slow controller manager gives a new namespace its ServiceAccount late.
func TestCreateWaitsForTheServiceAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, env := newFake(t)
		there := time.Now().Add(time.Minute)
		f.admit = func(*unstructured.Unstructured) error {
			if time.Now().Before(there) {
				return apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "x", errors.New("no default serviceaccount yet"))
			}
			return nil
		}
		s := &sandbox{env: env, check: "unit", id: "1"}
		err := s.create(t.Context(), map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "x"}})
		if err != nil {
			t.Error(err)
		}
	})
}
