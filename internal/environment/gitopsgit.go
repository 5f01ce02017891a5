package environment

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/gitops"
	"github.com/orrery-dev/orrery/internal/gitops/gitrepo"
	"github.com/orrery-dev/orrery/internal/kube"
)

// Of infra/k8s/base/git-server: its pod, and the port on the pod's loopback that is pushed to.
const (
	gitPod  = gitops.GitServer + "-0"
	gitPort = 8418
)

// commits is the git server of the cluster. The folder of a component is named by the commit that changed it last,
// so that a push reaches only what it is about.
type commits struct {
	repo    *gitrepo.Repository
	url     string
	by      gitrepo.Author
	of      string            // the commit that is pushed from, where there is one
	files   map[string][]byte // of what is pushed
	damaged error             // why what the server has could not be read
	stop    func()
}

// gitServer reads all that the server has, which holds it to its hashes.
func (e *Environment) gitServer(ctx context.Context, client *kube.Client) (_ *commits, err error) {
	root, err := e.Location.Root()
	if err != nil {
		return nil, err
	}
	c := &commits{}
	c.by, c.of = gitrepo.Person(ctx, root)
	c.by.Name, c.by.Email = cmp.Or(c.by.Name, "Orrery"), cmp.Or(c.by.Email, "orrery@localhost")
	addr, stop, err := client.PortForward(ctx, gitops.GitServer, gitPod, gitPort)
	if err != nil {
		return nil, fmt.Errorf("reach the git server: %w", err)
	}
	dir, err := os.MkdirTemp("", "orrery-gitops-")
	c.stop = func() { stop(); _ = os.RemoveAll(dir) }
	defer func() {
		if err != nil {
			c.stop()
		}
	}()
	if err != nil {
		return nil, err
	}
	c.url = "http://" + addr + "/" + gitops.GitRepository
	if err := ask(ctx, http.MethodGet, "http://"+addr+"/healthz"); err != nil {
		return nil, fmt.Errorf("reach the git server: %w", err)
	}
	clone, first := dir+"/clone", dir+"/first"
	if err := errors.Join(os.Mkdir(clone, 0o700), os.Mkdir(first, 0o700)); err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeout(ctx, gitTime)
	defer cancel()
	if c.repo, c.damaged = gitrepo.Clone(bounded, c.url, gitops.Branch, clone); c.damaged != nil {
		c.repo, err = gitrepo.Init(ctx, c.url, gitops.Branch, first)
	}
	return c, err
}

// gitTime is how long a server that takes connections and says nothing is waited for.
const gitTime = 30 * time.Second

func ask(ctx context.Context, method, url string) error {
	ctx, cancel := context.WithTimeout(ctx, gitTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s", method, url, response.Status)
	}
	return nil
}

func (c *commits) where() gitops.Source { return gitops.Git() }

func (c *commits) name() string { return "branch " + gitops.Branch + " of the git server" }

func (c *commits) close() { c.stop() }

func (c *commits) followed(context.Context) (string, error) {
	if c.damaged != nil {
		return "", unreadable{c.damaged}
	}
	return c.repo.Head, nil
}

func file(application string) string { return application + "/" + gitops.ManifestFile }

func (c *commits) manifest(ctx context.Context, application, revision string) ([]byte, error) {
	switch {
	case c.damaged != nil:
		return nil, c.damaged
	case !c.repo.Has(ctx, revision):
		return nil, fmt.Errorf("%s does not have commit %s", c.name(), gitops.Revision(revision))
	}
	return c.repo.Read(ctx, revision, file(application))
}

func (c *commits) revise(ctx context.Context, parts []pushable, before map[string]string) error {
	c.files = map[string][]byte{}
	if c.repo.Head != "" {
		if apps, err := c.repo.Read(ctx, c.repo.Head, file(gitops.Root)); err == nil {
			c.files[file(gitops.Root)] = apps
		}
	}
	var changed []int
	for i, p := range parts {
		c.files[file(p.Name)] = p.manifest
		if was := before[p.Name]; was != "" {
			if text, err := c.manifest(ctx, p.Name, was); err == nil && bytes.Equal(text, p.manifest) {
				parts[i].Revision = was
				continue
			}
		}
		changed = append(changed, i)
	}
	var names []string
	for _, i := range changed {
		names = append(names, parts[i].Name)
	}
	if err := c.commit(ctx, "Manifests: "+cmp.Or(strings.Join(names, ", "), "some left")); err != nil {
		return err
	}
	for _, i := range changed {
		parts[i].Revision = c.repo.Head
	}
	return nil
}

func (c *commits) commit(ctx context.Context, message string) error {
	if c.of != "" {
		message += "\n\nRendered-From: " + c.of
	}
	return c.repo.Commit(ctx, c.files, c.by, message)
}

// put leaves the server alone: both commits are pushed at once.
func (c *commits) put(context.Context, []pushable) ([]string, error) { return nil, nil }

func (c *commits) follow(ctx context.Context, applications []byte) (string, error) {
	c.files[file(gitops.Root)] = applications
	if err := c.commit(ctx, "Applications"); err != nil {
		return "", err
	}
	if c.damaged != nil {
		if err := ask(ctx, http.MethodDelete, c.url); err != nil {
			return "", fmt.Errorf("have the git server begin anew: %w", err)
		}
	}
	return c.repo.Head, c.repo.Push(ctx)
}
