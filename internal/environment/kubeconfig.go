package environment

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/driver"
)

// kubeconfigEffect is the journal's kind for a kubeconfig that the environment was
// merged into; the ID is its path.
const kubeconfigEffect = "kubeconfig"

// ContextName is the name of the environment in kubeconfigs.
func (e *Environment) ContextName() string { return contextName(e.Spec.Name) }

func contextName(env string) string { return "orrery-" + env }

// MergeKubeconfig adds the environment to a person's kubeconfig and makes it the current
// context there; Remove takes it out again.
func (e *Environment) MergeKubeconfig(ctx context.Context, target string) error {
	own, err := e.Kubeconfig(ctx)
	if err != nil {
		return err
	}
	if err := e.journal.Begin(driver.Effect{Kind: kubeconfigEffect, ID: target}); err != nil {
		return err
	}
	return mergeContext(own, target, e.Spec.Name)
}

// unmergeKubeconfigs takes the environment out of kubeconfigs it was merged into.
func (e *Environment) unmergeKubeconfigs() error {
	var errs []error
	for _, f := range e.journal.Live() {
		if f.Kind == kubeconfigEffect {
			errs = append(errs, removeContext(f.ID, e.Spec.Name))
			errs = append(errs, e.journal.Undone(driver.Effect{Kind: f.Kind, ID: f.ID}))
		}
	}
	return errors.Join(errs...)
}

// mergeContext copies the one context of file own into target.
func mergeContext(own, target, env string) error {
	from, err := clientcmd.LoadFromFile(own)
	if err != nil {
		return fmt.Errorf("read the admin kubeconfig: %w", err)
	}
	into, err := loadOrNew(target)
	if err != nil {
		return err
	}
	src, ok := from.Contexts[from.CurrentContext]
	if !ok {
		return fmt.Errorf("%s has no current context: 'orrery up' writes it anew", own)
	}
	name := contextName(env)
	into.Clusters[name] = from.Clusters[src.Cluster]
	into.AuthInfos[name] = from.AuthInfos[src.AuthInfo]
	into.Contexts[name] = &api.Context{Cluster: name, AuthInfo: name}
	into.CurrentContext = name
	return writeKubeconfig(into, target)
}

// removeContext takes the environment out of target; a missing file is fine.
func removeContext(target, env string) error {
	cfg, err := clientcmd.LoadFromFile(target)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("take context %s out of %s: %w", contextName(env), target, err)
	}
	name := contextName(env)
	delete(cfg.Clusters, name)
	delete(cfg.AuthInfos, name)
	delete(cfg.Contexts, name)
	if cfg.CurrentContext == name {
		cfg.CurrentContext = ""
	}
	if len(cfg.Contexts)+len(cfg.Clusters)+len(cfg.AuthInfos) == 0 {
		return os.Remove(target) // it held nothing but ours
	}
	return writeKubeconfig(cfg, target)
}

func loadOrNew(path string) (*api.Config, error) {
	cfg, err := clientcmd.LoadFromFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return api.NewConfig(), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return cfg, nil
}

// writeKubeconfig replaces path at once, so that a crash cannot truncate it.
func writeKubeconfig(cfg *api.Config, path string) error {
	data, err := clientcmd.Write(*cfg)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(path, data, 0o600)
}
