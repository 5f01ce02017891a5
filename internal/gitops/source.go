package gitops

import "k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

// Source is where Argo CD reads.
type Source struct {
	URL string
	git bool
}

// OCI is the mirror at registry, HOST:PORT as pods reach it.
func OCI(registry string) Source { return Source{URL: "oci://" + registry + "/" + Repository} }

// Git is the git server of the cluster, in the namespace of its name.
func Git() Source {
	return Source{URL: "https://" + GitServer + "." + GitServer + ".svc/" + GitRepository, git: true}
}

// Of a git server: the repository, and the branch that Root follows. Each Application has a folder
// there, with its manifest as [ManifestFile].
const (
	GitRepository = "platform.git"
	Branch        = "main"
)

// Of says which source a secret of [Source.Secret] is of, by its data.
func Of(data map[string][]byte) Source {
	return Source{string(data["url"]), string(data["type"]) == "git"}
}

// IsGit tells the git server from the mirror.
func (s Source) IsGit() bool { return s.git }

// follow is the one name that moves.
func (s Source) follow() string {
	if s.git {
		return Branch
	}
	return Tag
}

func (s Source) path(application string) string {
	if s.git {
		return application
	}
	return "."
}

// RepositorySecret is the name of [Source.Secret].
const RepositorySecret = "repository"

// Secret tells Argo CD what kind of repository it reads. The mirror is spoken to in plain HTTP, as all do. There is
// nothing secret in it.
func (s Source) Secret() *unstructured.Unstructured {
	// Said in both: what another source had set would stay, and would have Argo CD verify nobody.
	data := map[string]any{"type": "git", "name": "platform", "url": s.URL, "insecureOCIForceHttp": "false"}
	if !s.git {
		data["type"], data["insecureOCIForceHttp"] = "oci", "true"
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
		"metadata": map[string]any{
			"name": RepositorySecret, "namespace": Namespace,
			"labels": map[string]any{"argocd.argoproj.io/secret-type": "repository", "app.kubernetes.io/part-of": "argocd"},
		},
		"stringData": data,
	}}
}
