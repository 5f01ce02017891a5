package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/mirror"
)

// up makes the environment, unless one was named, and writes its kubeconfig.
func (r *runner) up(ctx context.Context) error {
	if r.env == "" {
		r.env, r.made = "conformance", true
		r.say("starting %d servers and %d agents with %s", r.servers, r.agents, r.plugin)
		file := filepath.Join(r.dir, "orrery.yaml")
		text := fmt.Sprintf("apiVersion: orrery.dev/v1alpha1\nkind: Environment\nname: %s\nservers: %d\nagents: %d\n"+
			"network: {plugin: %s}\ncomponents: [namespaces, coredns, local-path]\n", r.env, r.servers, r.agents, r.plugin)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
		if _, err := r.orrery(ctx, "up", "-f", file, "--plain"); err != nil {
			return err
		}
	}
	config, err := r.orrery(ctx, "kubeconfig")
	if err != nil {
		return err
	}
	return os.WriteFile(r.kubeconfig(), config, 0o600)
}

func (r *runner) kubeconfig() string { return filepath.Join(r.dir, "kubeconfig") }

// down removes what up made.
func (r *runner) down() error {
	if !r.made || r.keep {
		return nil
	}
	// The run may have been cancelled; what it made goes all the same.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	_, err := r.orrery(ctx, "down")
	return err
}

func (r *runner) orrery(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, r.cli, append(args, "--env", r.env)...)
	cmd.Dir = r.repo
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it cleans up
	cmd.WaitDelay = 2 * time.Minute
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("orrery %s: %w\n%s%s", strings.Join(args, " "), err, out.Bytes(), log.Bytes())
	}
	return out.Bytes(), nil
}

// load puts the stand-ins into the environment's mirror as the suite will call them, below
// a folder that is named by what they are: nodes keep what they have pulled by its name.
func (r *runner) load(ctx context.Context, images []stoodIn) (folder string, err error) {
	h := sha256.New()
	for _, in := range images {
		fmt.Fprintln(h, in.Image, in.Digest)
	}
	folder = "conformance/" + hex.EncodeToString(h.Sum(nil))[:8]
	for _, in := range images {
		if in.layout == "" {
			continue
		}
		name, ok := inMirror(in.Image)
		if !ok {
			return "", fmt.Errorf("image %s has no place in the mirror", in.Image)
		}
		if _, err := r.orrery(ctx, "images", "load", in.layout, "--name", folder+"/"+name); err != nil {
			return "", err
		}
	}
	return folder, nil
}

// registries are the suite's own names for where its images are, with the folder of the
// mirror that is given to it in place of each. Those that must not be reachable are not here.
var registries = map[string][2]string{
	"promoterE2eRegistry":      {"registry.k8s.io/e2e-test-images", "e2e"},
	"gcRegistry":               {"registry.k8s.io", "k8s"},
	"gcEtcdRegistry":           {"registry.k8s.io", "k8s"},
	"sigStorageRegistry":       {"registry.k8s.io/sig-storage", "storage"},
	"buildImageRegistry":       {"registry.k8s.io/build-image", "build"},
	"cloudProviderGcpRegistry": {"registry.k8s.io/cloud-provider-gcp", "gcp"},
}

// inMirror is FOLDER/NAME:TAG of an image of the suite.
func inMirror(name string) (string, bool) {
	best, to := "", ""
	for _, r := range registries {
		if strings.HasPrefix(name, r[0]+"/") && len(r[0]) > len(best) {
			best, to = r[0], r[1]
		}
	}
	if best == "" {
		return "", false
	}
	return to + strings.TrimPrefix(name, best), true
}

// writeRegistries writes the file that KUBE_TEST_REPO_LIST names.
func writeRegistries(file, folder string) error {
	var b strings.Builder
	for _, name := range sortedKeys(registries) {
		fmt.Fprintf(&b, "%s: %s/%s/%s\n", name, mirror.Host, folder, registries[name][1])
	}
	return os.WriteFile(file, []byte(b.String()), 0o644)
}
