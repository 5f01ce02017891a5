package native

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/check"
)

// contentAnnotation says what an object of ours was made from, so that the next look needs to
// compare nothing else.
const contentAnnotation = "orrery.dev/content"

// collections are the paths of the kinds that the driver makes.
var collections = map[string]string{
	"ClusterRole":              "/apis/rbac.authorization.k8s.io/v1/clusterroles",
	"ClusterRoleBinding":       "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
	"Role":                     "/apis/rbac.authorization.k8s.io/v1/namespaces/%s/roles",
	"RoleBinding":              "/apis/rbac.authorization.k8s.io/v1/namespaces/%s/rolebindings",
	"CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",

	"ValidatingAdmissionPolicy":        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
	"ValidatingAdmissionPolicyBinding": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
}

// unservedSigners warns whoever asks one of Kubernetes' signers that nobody serves here, see
// controllerManagerService. Its request would be approved and never issued.
func unservedSigners() []object {
	meta := object{"name": "orrery-unserved-signers", "labels": object{"app.kubernetes.io/managed-by": "orrery"}}
	return []object{{
		"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": meta,
		"spec": object{
			"failurePolicy": "Ignore",
			"matchConstraints": object{"resourceRules": []object{{
				"apiGroups": []string{"certificates.k8s.io"}, "apiVersions": []string{"*"},
				"operations": []string{"CREATE"}, "resources": []string{"certificatesigningrequests"},
			}}},
			"validations": []object{{
				"expression": "!object.spec.signerName.startsWith('kubernetes.io/') || object.spec.signerName == 'kubernetes.io/kube-apiserver-client'",
				"message":    "nobody signs for this signer here: orrery makes the certificates of nodes; for clients of the API take kubernetes.io/kube-apiserver-client",
			}},
		},
	}, {
		"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": meta,
		"spec": object{"policyName": meta["name"], "validationActions": []string{"Warn"}},
	}}
}

// putObjects makes what the network plugin needs in the API, and what tells of signers. It is
// done the moment the API answers: the nodes become Ready only afterwards.
func (d *Driver) putObjects(ctx context.Context, a *api) error {
	objects, err := networks[d.cluster.Plugin].objects(d.paths)
	if err != nil {
		return err
	}
	objects = append(objects, unservedSigners()...)
	ctx, cancel := context.WithTimeout(ctx, d.patience())
	defer cancel()
	var g errgroup.Group
	g.SetLimit(8)
	for _, o := range objects {
		g.Go(func() error {
			if err := a.put(ctx, o); err != nil {
				return fmt.Errorf("prepare the API: %v %v: %w", o["kind"], o["metadata"].(object)["name"], err)
			}
			return nil
		})
	}
	return g.Wait()
}

// put makes o, or replaces it when it was made from something else. It tries again while the
// API server may still be about to begin: namespaces, for one, appear a moment after it.
func (a *api) put(ctx context.Context, o object) error {
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	content := hex.EncodeToString(sum[:8])
	o = maps.Clone(o)
	meta := maps.Clone(o["metadata"].(object))
	annotations := object{contentAnnotation: content}
	if a, ok := meta["annotations"].(object); ok {
		maps.Copy(annotations, a)
	}
	meta["annotations"] = annotations
	o["metadata"] = meta
	kind, _ := o["kind"].(string)
	collection, ok := collections[kind]
	if !ok {
		return fmt.Errorf("the driver makes no %q", kind)
	}
	if ns, ok := meta["namespace"].(string); ok {
		collection = fmt.Sprintf(collection, ns)
	}
	var refused error
	err = check.Until(ctx, check.Pause{First: 100 * time.Millisecond}, func() error {
		err := a.putOnce(ctx, collection, o, meta, content)
		var status *statusError
		if errors.As(err, &status) && status.code/100 == 4 && status.code != http.StatusNotFound &&
			status.code != http.StatusConflict && status.code != http.StatusTooManyRequests && status.code != http.StatusForbidden {
			refused = err
			return nil
		}
		return err
	})
	return errors.Join(refused, err)
}

func (a *api) putOnce(ctx context.Context, collection string, o, meta object, content string) error {
	_, err := a.send(ctx, http.MethodPost, collection, "application/json", o)
	var status *statusError
	if !errors.As(err, &status) || status.code != http.StatusConflict {
		return err
	}
	path := fmt.Sprintf("%s/%v", collection, meta["name"])
	b, err := a.get(ctx, path)
	if err != nil {
		return err
	}
	var have struct {
		Metadata struct {
			ResourceVersion string            `json:"resourceVersion"`
			Annotations     map[string]string `json:"annotations"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(b, &have); err != nil {
		return err
	}
	if have.Metadata.Annotations[contentAnnotation] == content {
		return nil
	}
	meta["resourceVersion"] = have.Metadata.ResourceVersion
	_, err = a.send(ctx, http.MethodPut, path, "application/json", o)
	return err
}

// assignRange tells node which range its pods' addresses are from.
func (a *api) assignRange(ctx context.Context, node, cidr string) error {
	_, err := a.send(ctx, http.MethodPatch, "/api/v1/nodes/"+node, "application/merge-patch+json",
		object{"spec": object{"podCIDR": cidr, "podCIDRs": []string{cidr}}})
	if err != nil {
		return fmt.Errorf("give %s to node %s: %w", cidr, node, err)
	}
	return nil
}
