package ci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	releaseWorkflow = ".github/workflows/release.yml"
	provenanceFile  = sumsFile + ".provenance" + sigSuffix
	// Of GitHub's provenance: what a workflow run is described by, and the machines it ran on.
	githubBuildType = "https://actions.github.io/buildtypes/workflow/v1"
	githubBuilder   = "https://github.com/actions/runner/github-hosted"
)

// origin is what a provenance must say: the rules of slsa-verifier.
type origin struct {
	repository, ref, workflow, commit string
	builder                           string
}

// attested is the part of GitHub's provenance that is compared.
type attested struct {
	Type    string `json:"_type"`
	Subject []struct {
		Name   string            `json:"name"`
		Digest map[string]string `json:"digest"`
	} `json:"subject"`
	PredicateType string `json:"predicateType"`
	Predicate     struct {
		BuildDefinition struct {
			BuildType          string `json:"buildType"`
			ExternalParameters struct {
				Workflow struct {
					Ref        string `json:"ref"`
					Repository string `json:"repository"`
					Path       string `json:"path"`
				} `json:"workflow"`
			} `json:"externalParameters"`
			ResolvedDependencies []struct {
				URI    string            `json:"uri"`
				Digest map[string]string `json:"digest"`
			} `json:"resolvedDependencies"`
		} `json:"buildDefinition"`
		RunDetails struct {
			Builder struct {
				ID string `json:"id"`
			} `json:"builder"`
		} `json:"runDetails"`
	} `json:"predicate"`
}

// checkProvenance holds a statement to what is expected of the file called name with this
// SHA-256. Who signed the statement is cosign's to say.
func checkProvenance(payload []byte, name, sha256 string, want origin) error {
	var s attested
	if err := json.Unmarshal(payload, &s); err != nil {
		return fmt.Errorf("the provenance cannot be read: %w", err)
	}
	b := s.Predicate.BuildDefinition
	commit := ""
	for _, d := range b.ResolvedDependencies {
		if d.URI == "git+"+want.repository+"@"+want.ref {
			commit = d.Digest["gitCommit"]
		}
	}
	var bad []string
	for _, c := range []struct{ what, have, want string }{
		{"predicate type", s.PredicateType, "https://slsa.dev/provenance/v1"},
		{"build type", b.BuildType, githubBuildType},
		{"builder", s.Predicate.RunDetails.Builder.ID, want.builder},
		{"repository", b.ExternalParameters.Workflow.Repository, want.repository},
		{"ref", b.ExternalParameters.Workflow.Ref, want.ref},
		{"workflow", b.ExternalParameters.Workflow.Path, want.workflow},
		{"commit", commit, want.commit},
	} {
		if c.have != c.want {
			bad = append(bad, fmt.Sprintf("its %s is %q and not %q", c.what, c.have, c.want))
		}
	}
	found := false
	for _, sub := range s.Subject {
		found = found || sub.Name == name && sub.Digest["sha256"] == sha256
	}
	if !found {
		bad = append(bad, fmt.Sprintf("it is not about %s with sha256:%s", name, sha256))
	}
	if err := refuse(bad); err != nil {
		return fmt.Errorf("provenance of %s: %w", name, err)
	}
	return nil
}

// attach takes GitHub's provenance among what is released.
func (l *release) attach() error {
	from := os.Getenv(envProvenance)
	if from == "" {
		return nil
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("%s: %w", envProvenance, err)
	}
	return os.WriteFile(filepath.Join(l.dir, provenanceFile), data, 0o644)
}

// verifyProvenance holds every file of the list to GitHub's provenance: cosign says who signed
// it, and what it says is compared here.
func (l *release) verifyProvenance(ctx context.Context, dir string) error {
	bundle := filepath.Join(dir, provenanceFile)
	data, err := os.ReadFile(bundle)
	if errors.Is(err, fs.ErrNotExist) {
		return Skip{"there is no provenance: GitHub makes it, in the workflow of a release"}
	}
	if err != nil {
		return err
	}
	var b struct {
		Envelope struct {
			Payload []byte `json:"payload"`
		} `json:"dsseEnvelope"`
	}
	if err := json.Unmarshal(data, &b); err != nil {
		return fmt.Errorf("%s is no sigstore bundle: %w", provenanceFile, err)
	}
	flags, err := l.believed()
	if err != nil {
		return err
	}
	sums, err := os.ReadFile(filepath.Join(dir, sumsFile))
	if err != nil {
		return err
	}
	want := origin{
		repository: "https://github.com/" + os.Getenv("GITHUB_REPOSITORY"), ref: "refs/tags/" + l.tag,
		workflow: releaseWorkflow, commit: l.commit, builder: githubBuilder,
	}
	for line := range strings.Lines(string(sums)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		args := append([]string{"verify-blob-attestation", "--bundle", bundle, "--type", "slsaprovenance1"}, flags...)
		if err := l.runCosign(ctx, append(args, filepath.Join(dir, name))...); err != nil {
			return fmt.Errorf("provenance of %s: %w", name, err)
		}
		if err := checkProvenance(b.Envelope.Payload, name, sum, want); err != nil {
			return err
		}
	}
	return nil
}
