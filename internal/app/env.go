package app

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/secrets"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newEnv(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "env",
		Short: "Print variables for a shell: where the kubeconfig, NATS and the age key are (for direnv, see .envrc)",
		Long: `Print export lines for what other programs look for: KUBECONFIG of the environment, when it is there;
NATS_URL, NATS_CREDS and NATS_CA, while 'orrery open nats' runs; and SOPS_AGE_KEY_FILE of the
repository, when there is a key. They are paths and an address, never values: who may not read the
files learns nothing. A key that a shell has named already is left alone.`,
		Example: `  eval "$(orrery env)"
  orrery env --env staging -o json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			vars := map[string]string{}
			e, err := environment.Existing(o.request(ui.Discard))
			if err == nil {
				defer e.Close()
				if path, err := e.Kubeconfig(c.Context()); err == nil {
					vars["KUBECONFIG"] = path
				}
				if nats, ok := e.NATSAccess(); ok {
					vars["NATS_URL"], vars["NATS_CREDS"], vars["NATS_CA"] = nats.URL, nats.Credentials, nats.Authority
				}
			} else {
				fmt.Fprintf(o.err, "note: %v\n", err)
			}
			if root, err := o.secretsRoot(); err == nil && os.Getenv(secrets.EnvKey) == "" && os.Getenv(secrets.EnvKeyFile) == "" {
				file := filepath.Join(root, filepath.FromSlash(secrets.KeyFile))
				if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
					vars[secrets.EnvKeyFile] = file
				}
			}
			if o.json() {
				return printJSON(o.out, vars)
			}
			for _, name := range slices.Sorted(maps.Keys(vars)) {
				// In single quotes a shell takes everything as it is, but for the quote itself.
				fmt.Fprintf(o.out, "export %s='%s'\n", name, strings.ReplaceAll(vars[name], "'", `'\''`))
			}
			return nil
		},
	}
}
