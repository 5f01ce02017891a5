package environment

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/gitops"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/spec"
)

// source is where Argo CD reads what was pushed.
type source interface {
	where() gitops.Source
	// name is what the root follows, for people.
	name() string
	// followed is the revision that the root follows; empty when nothing was pushed. Where it answers
	// with what is nothing that was pushed, the error is an [unreadable].
	followed(ctx context.Context) (string, error)
	// manifest of an Application as a revision has it.
	manifest(ctx context.Context, application, revision string) ([]byte, error)
	// revise gives parts the revisions that they will have. before are those that they had.
	revise(ctx context.Context, parts []pushable, before map[string]string) error
	// put writes parts; mended are those that Argo CD has read, and has to look at anew.
	put(ctx context.Context, parts []pushable) (mended []string, err error)
	// follow has the root follow these Applications, of the parts that were put.
	follow(ctx context.Context, applications []byte) (revision string, err error)
	// close takes away what was made to talk to it.
	close()
}

// unreadable is a source that answers, with nothing that was pushed: a push mends it.
type unreadable struct{ error }

func (u unreadable) Unwrap() error { return u.error }

func isUnreadable(err error) bool {
	var u unreadable
	return errors.As(err, &u)
}

// handedWith is the source that Argo CD was told of, by its name in orrery.yaml; empty where it was told of none.
func handedWith(ctx context.Context, client *kube.Client) (string, error) {
	secret, err := client.Get(ctx, "v1", "Secret", gitops.Namespace, gitops.RepositorySecret)
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if gitops.Of(kube.SecretData(secret)).IsGit() {
		return spec.GitOpsGit, nil
	}
	return spec.GitOpsOCI, nil
}

// source opens the one of that name; "" is the one that Argo CD was told of, or else that of orrery.yaml.
func (e *Environment) source(ctx context.Context, client *kube.Client, which string, warn func(string, ...any)) (source, error) {
	if which == "" {
		told, err := handedWith(ctx, client)
		if err != nil {
			return nil, err
		}
		which = cmp.Or(told, e.Spec.GitOps.Source, spec.GitOpsOCI)
	}
	switch which {
	case spec.GitOpsGit:
		return e.gitServer(ctx, client)
	case spec.GitOpsOCI:
		d, err := e.mirrored()
		if err != nil {
			return nil, fmt.Errorf("%w: what Argo CD reads is kept there", err)
		}
		return artifacts{d, warn}, nil
	}
	return nil, failure.Usagef("there is no source %q: %s or %s", which, spec.GitOpsOCI, spec.GitOpsGit)
}

// pushedBefore is what the root follows, and the revisions that this points to, by component. What somebody put in the
// place of that and cannot be read points to nothing: a push is what mends it.
func (p *Platform) pushedBefore(ctx context.Context, src source) (root string, revisions map[string]string, err error) {
	revisions = map[string]string{}
	root, err = src.followed(ctx)
	if err != nil && !isUnreadable(err) || err == nil && root == "" {
		return "", revisions, err
	}
	var apps []*unstructured.Unstructured
	if err == nil {
		var text []byte
		if text, err = src.manifest(ctx, gitops.Root, root); err == nil {
			apps, err = kube.Objects(text)
		}
	}
	if err != nil {
		p.warn("what %s points to is nothing that was pushed: %v", src.name(), err)
	}
	for _, a := range apps {
		revisions[a.GetName()], _, _ = unstructured.NestedString(a.Object, "spec", "source", "targetRevision")
	}
	return root, revisions, nil
}

// damaged says which of what Argo CD follows is not there as it was pushed, and why.
func damaged(ctx context.Context, src source, g GitOps) (lines []string) {
	for _, a := range g.Applications {
		revision := a.Revision
		if a.Component == gitops.Root {
			revision = g.Revision
		}
		if revision == "" {
			continue
		}
		if _, err := src.manifest(ctx, a.Component, revision); err != nil {
			lines = append(lines, fmt.Sprintf("%s: %v", a.Component, err))
		}
	}
	return lines
}
