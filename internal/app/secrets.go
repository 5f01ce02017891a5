package app

import "github.com/spf13/cobra"

func newSecrets(o *options) *cobra.Command {
	c := &cobra.Command{Use: "secrets", Short: "Look after the keys that secrets are encrypted with"}
	c.AddCommand(newSecretsRotateAtRest(o))
	return c
}
