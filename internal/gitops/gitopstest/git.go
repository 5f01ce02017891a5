package gitopstest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/orrery-dev/orrery/internal/gitops"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/kube/kubetest"
)

// Git is the git server of a cluster, by the git of this machine.
type Git struct {
	tb  testing.TB
	dir string // of the repository
	off atomic.Bool
	// seen is for the one that reads. To run git all the time would keep locks of this process held: a child has
	// what is open until it executes.
	seen map[seen][]byte
}

// ServeGit deploys a git server into the cluster, which a reads too.
func (a *Argo) ServeGit(tb testing.TB, cluster *kubetest.Server) *Git {
	tb.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		tb.Skip("git is not on PATH")
	}
	g := &Git{tb: tb, dir: filepath.Join(tb.TempDir(), gitops.GitRepository), seen: map[seen][]byte{}}
	g.begin()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("DELETE /"+gitops.GitRepository, func(http.ResponseWriter, *http.Request) { g.begin() })
	mux.Handle("/", &cgi.Handler{Path: "/bin/sh", Args: []string{"-c", "exec git http-backend"},
		Env: []string{"GIT_PROJECT_ROOT=" + filepath.Dir(g.dir), "GIT_HTTP_EXPORT_ALL=1", "PATH=" + os.Getenv("PATH")}})
	web := httptest.NewServer(mux)
	tb.Cleanup(web.Close)
	text := fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %[1]s}}\n---\n{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: %[1]s, namespace: %[1]s},"+
		" spec: {serviceName: %[1]s, replicas: 1, selector: {matchLabels: {app: %[1]s}}, template: {metadata: {labels: {app: %[1]s}}}}}\n"+
		"---\n{apiVersion: v1, kind: Pod, metadata: {name: %[1]s-0, namespace: %[1]s}}\n", gitops.GitServer)
	objs, err := kube.Objects([]byte(text))
	if err == nil {
		_, err = a.client.Apply(tb.Context(), gitops.GitServer, objs)
	}
	if err != nil {
		tb.Fatal(err)
	}
	cluster.HandleForward(func(f kubetest.Forward) (string, error) {
		if g.off.Load() || f.Pod != gitops.GitServer+"-0" {
			return "", errors.New("connection refused")
		}
		return web.Listener.Addr().String(), nil
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	a.git = g
	return g
}

func (g *Git) begin() {
	if err := os.RemoveAll(g.dir); err != nil {
		g.tb.Error(err)
	}
	for _, args := range [][]string{
		{"init", "--quiet", "--bare", "--initial-branch=" + gitops.Branch, g.dir},
		{"-C", g.dir, "config", "http.receivepack", "true"},
	} {
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
			g.tb.Errorf("git %v: %v: %s", args, err, out)
		}
	}
}

// Off has nobody answer, until it is on again.
func (g *Git) Off(off bool) { g.off.Store(off) }

// Run runs git in the repository.
func (g *Git) Run(args ...string) string {
	g.tb.Helper()
	out, err := g.run(context.Background(), args...)
	if err != nil {
		g.tb.Fatal(err)
	}
	return out
}

func (g *Git) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", g.dir, "-c", "user.name=x", "-c", "user.email=x@example.org"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("git %v: %w: %s", args, err, out)
	}
	return string(out), nil
}

// Damage removes what commits consist of.
func (g *Git) Damage() {
	g.tb.Helper()
	for _, folder := range []string{"objects/pack", "objects"} {
		found, err := filepath.Glob(filepath.Join(g.dir, folder, "[0-9a-p]*"))
		if err != nil {
			g.tb.Fatal(err)
		}
		for _, f := range found {
			if err := os.RemoveAll(f); err != nil {
				g.tb.Fatal(err)
			}
		}
	}
}

// seen is what was read once, and is kept as Argo CD keeps it.
type seen struct {
	head, revision, folder string
}

// read is what a folder has at a revision: a commit that led to the branch, or the branch.
func (g *Git) read(ctx context.Context, revision, folder string) (commit string, manifest []byte, err error) {
	if g.off.Load() {
		return "", nil, errors.New("the git server is away")
	}
	head, err := os.ReadFile(filepath.Join(g.dir, "refs/heads", gitops.Branch))
	if err != nil {
		return "", nil, err
	}
	if commit = revision; commit == gitops.Branch {
		commit = strings.TrimSpace(string(head))
	}
	at := seen{string(head), revision, folder}
	if text, known := g.seen[at]; known {
		return commit, text, nil
	}
	if _, err = g.run(ctx, "merge-base", "--is-ancestor", commit, gitops.Branch); err != nil {
		return "", nil, err
	}
	text, err := g.run(ctx, "cat-file", "blob", commit+":"+folder+"/"+gitops.ManifestFile)
	if err == nil {
		g.seen[at] = []byte(text)
	}
	return commit, []byte(text), err
}
