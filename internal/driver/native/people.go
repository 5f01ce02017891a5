package native

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// peopleBinding gives people's keys their rights, and peopleGroup is how the group begins that they
// name. The rest of its name is chosen with the binding: removing that ends all keys that were
// given out, for good, since the next one names another group.
const (
	peopleBinding = "orrery:people"
	peopleGroup   = "orrery:people:"
	bindings      = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
)

// Issue implements [driver.Issuer]. The group is not system:masters, whose rights nothing in a
// cluster can take away.
func (d *Driver) Issue(ctx context.Context, life time.Duration) (kubeconfig []byte, ends time.Time, err error) {
	fail := func(err error) ([]byte, time.Time, error) {
		return nil, time.Time{}, fmt.Errorf("make a key for a person: %w", err)
	}
	cert, key, pem, err := loadPair(d.paths.pki("ca"))
	if err != nil {
		return fail(err)
	}
	a, err := newAPI(d.paths, d.cluster.API)
	if err != nil {
		return fail(err)
	}
	defer a.close()
	group, err := a.people(ctx)
	if err != nil {
		return fail(err)
	}
	ca := &authority{cert, key, pem}
	t := (&issuer{now: d.now}).template(ca, leaf{cn: "orrery-person", orgs: []string{group}, client: true}, life)
	crt, private, err := makePair(t, ca)
	if err != nil {
		return fail(err)
	}
	return hostKubeconfig(d.cluster, ca.pem, crt, private), t.NotAfter, nil
}

// people is the group of the binding, which is made when there is none.
func (a *api) people(ctx context.Context) (group string, err error) {
	group, err = a.boundGroup(ctx)
	if !isStatus(err, http.StatusNotFound) {
		return group, err
	}
	random := make([]byte, 8)
	_, _ = rand.Read(random) // it never fails
	group = peopleGroup + hex.EncodeToString(random)
	_, err = a.send(ctx, http.MethodPost, bindings, "application/json", object{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
		"metadata": object{"name": peopleBinding, "labels": object{"app.kubernetes.io/managed-by": "orrery"}},
		"roleRef":  object{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
		"subjects": []object{{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}},
	})
	if isStatus(err, http.StatusConflict) { // somebody else did just now
		return a.boundGroup(ctx)
	}
	return group, err
}

func (a *api) boundGroup(ctx context.Context) (string, error) {
	b, err := a.get(ctx, bindings+"/"+peopleBinding)
	if err != nil {
		return "", err
	}
	var binding struct {
		Subjects []struct {
			Kind string `json:"kind"`
			Name string `json:"name"`
		} `json:"subjects"`
	}
	if err := json.Unmarshal(b, &binding); err != nil {
		return "", fmt.Errorf("ClusterRoleBinding %s: %w", peopleBinding, err)
	}
	for _, s := range binding.Subjects {
		if s.Kind == "Group" && strings.HasPrefix(s.Name, peopleGroup) {
			return s.Name, nil
		}
	}
	return "", fmt.Errorf("ClusterRoleBinding %s gives its rights to no group %s…: delete it, and it is made anew",
		peopleBinding, peopleGroup)
}

func isStatus(err error, code int) bool {
	e, ok := errors.AsType[*statusError](err)
	return ok && e.code == code
}
