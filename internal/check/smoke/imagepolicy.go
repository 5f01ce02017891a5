package smoke

import (
	"context"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/mirror"
)

// guardedNamespace is one that runs only known images; see the component image-policy.
const (
	guardedNamespace = "platform"
	imageLabel       = "orrery.dev/images"
	imagePolicyName  = "orrery-images"
)

// imagePolicy: a pod with an unknown digest and one with a tag are refused in a guarded
// namespace, for that reason; one with an image that is listed is let in. None is made.
func imagePolicy(ctx context.Context, env Env) check.Result {
	ns, err := env.Client.Get(ctx, "v1", "Namespace", "", guardedNamespace)
	if err != nil {
		return check.Wait("read namespace %s: %v", guardedNamespace, err)
	}
	if ns.GetLabels()[imageLabel] != "enforced" {
		return check.Fail(fmt.Errorf("namespace %s is not guarded: its label %s is %q; run `orrery deploy namespaces`",
			guardedNamespace, imageLabel, ns.GetLabels()[imageLabel]))
	}
	binding, err := env.Client.Get(ctx, "admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding", "", imagePolicyName)
	if err != nil {
		return check.Wait("read the binding of the image policy: %v", err)
	}
	if actions, _, _ := unstructured.NestedStringSlice(binding.Object, "spec", "validationActions"); len(actions) == 0 || actions[0] != "Deny" {
		return check.Skip("the policy only warns: images.verify of orrery.yaml is warn, or there is no lock")
	}
	list, err := env.Client.Get(ctx, "v1", "ConfigMap", guardedNamespace, "image-policy")
	if err != nil {
		return check.Wait("read the allowed images: %v", err)
	}
	lines := strings.Fields(text(list, "data", "images"))
	if len(lines) == 0 {
		return check.Fail(errors.New("no image is allowed: ConfigMap platform/image-policy is empty; run `orrery deploy image-policy`"))
	}
	unknown := mirror.Host + "/unknown@sha256:" + token(32)
	for _, refused := range []string{unknown, mirror.Host + "/probe:latest"} {
		err := env.Client.DryRun(ctx, harmlessPod(refused))
		switch {
		case err == nil:
			// It takes the API server a moment to hear of a policy.
			return check.Wait("a pod with image %s was let into namespace %s: the image policy is not in force", refused, guardedNamespace)
		case !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), imagePolicyName):
			return check.Wait("try image %s: %v", refused, err)
		}
	}
	if err := env.Client.DryRun(ctx, harmlessPod(lines[0])); err != nil {
		return check.Wait("image %s is listed: %v", lines[0], err)
	}
	return check.OK("an unknown digest and a tag were refused in %s, one of %d listed images was not", guardedNamespace, len(lines))
}

// harmlessPod is one that nothing but the image policy can object to.
func harmlessPod(image string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": map[string]any{"name": "smoke-image-policy-" + token(4), "namespace": guardedNamespace},
		"spec": map[string]any{
			"automountServiceAccountToken": false,
			"containers": []any{map[string]any{
				"name": "probe", "image": image,
				"securityContext": map[string]any{
					"allowPrivilegeEscalation": false, "runAsNonRoot": true,
					"capabilities":   map[string]any{"drop": []any{"ALL"}},
					"seccompProfile": map[string]any{"type": "RuntimeDefault"},
				},
			}},
		},
	}}
}
