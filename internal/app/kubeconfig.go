package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/driver"
)

// kubeconfigEffect is the journal's kind for a kubeconfig that the environment was
// merged into; the ID is its path.
const kubeconfigEffect = "kubeconfig"

func contextName(env string) string { return "orrery-" + env }

func newKubeconfig(o *options) *cobra.Command {
	var merge bool
	c := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the admin kubeconfig, or merge it into yours",
		Long: `Print the environment's admin kubeconfig. With --merge, add it to the first file of
$KUBECONFIG (or ~/.kube/config) as context orrery-ENV and make it the current one;
'orrery down' takes it out again.`,
		Example: `  orrery kubeconfig > kc && kubectl --kubeconfig kc get nodes
  orrery kubeconfig --merge`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			s, err := o.attachExisting()
			if err != nil {
				return err
			}
			own := filepath.Join(s.stateDir, "kubeconfig")
			if !merge {
				b, err := os.ReadFile(own)
				if err != nil {
					return fmt.Errorf("read the admin kubeconfig: %w", err)
				}
				_, err = o.out.Write(b)
				return err
			}
			if err := s.lock("kubeconfig"); err != nil {
				return err
			}
			defer s.close()
			target := userKubeconfig()
			if err := s.journal.Begin(driver.Effect{Kind: kubeconfigEffect, ID: target}); err != nil {
				return err
			}
			if err := mergeContext(own, target, s.spec.Name); err != nil {
				return err
			}
			_, err = fmt.Fprintf(o.out, "Context %s is now the current one of %s.\n", contextName(s.spec.Name), target)
			return err
		},
	}
	c.Flags().BoolVar(&merge, "merge", false, "add it to your own kubeconfig")
	return c
}

// userKubeconfig is the file that kubectl would write to.
func userKubeconfig() string {
	if list := filepath.SplitList(os.Getenv("KUBECONFIG")); len(list) > 0 {
		return list[0]
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/root"
	}
	return filepath.Join(home, ".kube", "config")
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
