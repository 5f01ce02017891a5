package app

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/secrets"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newSecrets(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "secrets",
		Short: "Secret values that are kept in the repository, encrypted: init, set, edit, show, rotate, check",
		Long: `Keep the values of Secrets in infra/secrets/data.yaml, encrypted by the format of SOPS for
keys of age. The stock programs sops and age read and write the same files.

Who has a key of the file's gets these values when an environment is made or deployed to; they are
decrypted in memory and applied, and stand in no file in the clear. Who has no key gets values that are
generated for the environment alone, and is told so.

The key is infra/secrets/age-key.txt, which git ignores, or what SOPS_AGE_KEY_FILE or SOPS_AGE_KEY name.`,
	}
	c.AddCommand(newSecretsInit(o), newSecretsSet(o), newSecretsEdit(o), newSecretsShow(o), newSecretsRotate(o), newSecretsRotateAtRest(o), newSecretsCheck(o))
	return c
}

// secretsRoot is the repository that secrets are kept in.
func (o *options) secretsRoot() (string, error) {
	l := o.request(ui.Discard).Location()
	if l.Bundle() != "" {
		return "", failure.Usagef("secrets are changed in a repository, and not in a bundle: run it there, or with --catalog DIR")
	}
	return l.Root()
}

// keptSecrets is infra/secrets/data.yaml of a repository, and for whom it is encrypted.
type keptSecrets struct {
	root       string
	config     *secrets.Config
	file       *secrets.File
	recipients []string // of .sops.yaml, or else of the file
}

// keptSecrets opens those of the repository that the person stands in.
func (o *options) keptSecrets(mayBeNew bool) (*keptSecrets, error) {
	root, err := o.secretsRoot()
	if err != nil {
		return nil, err
	}
	return openSecrets(root, mayBeNew)
}

// openSecrets decrypts the file; a new one when there is none and may be.
func openSecrets(root string, mayBeNew bool) (*keptSecrets, error) {
	keys, _, err := secrets.Keys(root, os.Getenv)
	if err != nil {
		return nil, failure.Usage{Err: err}
	}
	k := &keptSecrets{root: root, file: secrets.NewManifests()}
	if secrets.Exists(root) {
		k.file, err = secrets.Open(dataPath(root), keys)
	} else if !mayBeNew {
		err = fmt.Errorf("there is no %s yet: 'orrery secrets init' makes it, 'orrery secrets set' puts values into it", secrets.DataFile)
	}
	if err != nil {
		return nil, failure.Usage{Err: err}
	}
	if k.config, err = secrets.LoadConfig(root); err != nil {
		return nil, failure.Usage{Err: err}
	}
	rule, _, err := k.config.RuleFor(secrets.DataFile)
	if err != nil {
		return nil, failure.Usage{Err: err}
	}
	if k.recipients = rule.Recipients; len(k.recipients) == 0 {
		k.recipients = k.file.Recipients()
	}
	return k, nil
}

func dataPath(root string) string { return filepath.Join(root, filepath.FromSlash(secrets.DataFile)) }

// save encrypts the file, if what it holds can be applied.
func (k *keptSecrets) save() error {
	if len(k.recipients) == 0 {
		return failure.Usagef("%s names nobody who could decrypt %s: 'orrery secrets init' adds you", secrets.ConfigFile, secrets.DataFile)
	}
	if _, err := k.file.Values(); err != nil {
		return failure.Usage{Err: fmt.Errorf("%s is left as it was: %w", secrets.DataFile, err)}
	}
	return k.file.Save(dataPath(k.root), k.recipients)
}

// secretsInit is what `secrets init -o json` prints; its form is a contract.
type secretsInit struct {
	KeyFile   string `json:"keyFile"`
	Recipient string `json:"recipient"`
	MadeKey   bool   `json:"madeKey"`
	// Added: the recipient was written into .sops.yaml.
	Added bool `json:"added"`
	// MadeData: infra/secrets/data.yaml was made.
	MadeData bool `json:"madeData"`
}

// seeded are the Secrets that `secrets init` gives values, which people and the stores' own clients
// share.
var seeded = []struct{ namespace, name, key string }{
	{"scylladb", "scylladb", "password"},
}

func newSecretsInit(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "init",
		Short: "Make an age key, name it in .sops.yaml, and make infra/secrets/data.yaml",
		Long: `Make infra/secrets/age-key.txt (mode 0600, never overwritten, ignored by git), write its public
half into .sops.yaml, and make infra/secrets/data.yaml with random credentials of the data stores. Commit
.sops.yaml and data.yaml; keep a copy of the key where the team keeps such things: without any key that
.sops.yaml names, what is encrypted is lost.

Where data.yaml is there already, and encrypted for others, only the key is made: give its public half
to one of them.`,
		Example: `  orrery secrets init
  git add .sops.yaml infra/secrets/data.yaml`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			root, err := o.secretsRoot()
			if err != nil {
				return err
			}
			done, others, err := initSecrets(root)
			if err != nil {
				return err
			}
			if o.json() {
				return printJSON(o.out, done)
			}
			verb := "is there already and stays as it is"
			if done.MadeKey {
				verb = "was made; keep a copy of it in a safe place"
			}
			fmt.Fprintf(o.out, "%s %s\n  its public half: %s\n", done.KeyFile, verb, done.Recipient)
			if others {
				_, err = fmt.Fprintf(o.out, "%s is encrypted for others. One of them adds you:\n  orrery secrets rotate --add-recipient %s\n", secrets.DataFile, done.Recipient)
				return err
			}
			if done.Added {
				fmt.Fprintf(o.out, "%s names it\n", secrets.ConfigFile)
			}
			if done.MadeData {
				fmt.Fprintf(o.out, "%s was made; 'orrery secrets set' and 'edit' put values into it\n", secrets.DataFile)
			}
			if done.Added || done.MadeData {
				_, err = fmt.Fprintf(o.out, "Next: git add %s %s\n", secrets.ConfigFile, secrets.DataFile)
			}
			return err
		},
	}
}

// initSecrets makes what is not there. others: the file is encrypted for others, and stays as it is.
func initSecrets(root string) (done secretsInit, others bool, err error) {
	done.Recipient, done.KeyFile, done.MadeKey, err = secrets.NewKey(root)
	if err != nil {
		return done, false, failure.Usage{Err: err}
	}
	k, err := openSecrets(root, true)
	if errors.Is(err, secrets.ErrWrongKey) {
		return done, true, nil
	}
	if err != nil {
		return done, false, err
	}
	rule, _, err := k.config.RuleFor(secrets.DataFile)
	if err != nil {
		return done, false, failure.Usage{Err: err}
	}
	if !slices.Contains(rule.Recipients, done.Recipient) {
		k.recipients = append(rule.Recipients, done.Recipient)
		if err := k.config.SetRecipients(k.recipients); err != nil {
			return done, false, err
		}
		done.Added = true
	}
	if secrets.Exists(root) {
		return done, false, nil
	}
	for _, s := range seeded {
		if err := k.file.Set(s.namespace, s.name, s.key, secrets.Random()); err != nil {
			return done, false, err
		}
	}
	done.MadeData = true
	return done, false, k.save()
}

func newSecretsSet(o *options) *cobra.Command {
	var random bool
	c := &cobra.Command{
		Use:   "set NAMESPACE/NAME KEY",
		Short: "Put a value, which is read from standard input, into a Secret",
		Long: `Read a value from standard input (without an echo where that is a terminal) and put it into the
Secret NAMESPACE/NAME of infra/secrets/data.yaml under KEY. It is never an argument: those can be read by
every user of the machine. A line feed at its end is left out.`,
		Example: `  orrery secrets set messaging/nats-app app.seed < seed
  orrery secrets set scylladb/scylladb password --random`,
		Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			namespace, name, ok := strings.Cut(args[0], "/")
			if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
				return failure.Usagef("%q is no NAMESPACE/NAME", args[0])
			}
			k, err := o.keptSecrets(true)
			if err != nil {
				return err
			}
			value := secrets.Random()
			if !random {
				if value, err = o.secretValue(args[0] + " " + args[1]); err != nil {
					return err
				}
			}
			if err := k.file.Set(namespace, name, args[1], value); err != nil {
				return failure.Usage{Err: err}
			}
			if err := k.save(); err != nil {
				return err
			}
			_, err = fmt.Fprintf(o.out, "%s of Secret %s is set; 'orrery up' applies it\n", args[1], args[0])
			return err
		},
	}
	c.Flags().BoolVar(&random, "random", false, "a random value of 40 letters and digits, which nobody sees")
	return c
}

// secretValue reads a value that no terminal shows.
func (o *options) secretValue(of string) (string, error) {
	if f, ok := o.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprintf(o.err, "value of %s: ", of)
		value, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(o.err)
		return string(value), err
	}
	const most = 1 << 20
	data, err := io.ReadAll(io.LimitReader(o.in, most+1))
	if err != nil {
		return "", fmt.Errorf("read the value from standard input: %w", err)
	}
	if len(data) > most {
		return "", failure.Usagef("the value has more than %d bytes, which no Secret takes", most)
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if value == "" {
		return "", failure.Usagef("standard input holds no value")
	}
	return value, nil
}

func newSecretsShow(o *options) *cobra.Command {
	var reveal bool
	c := &cobra.Command{
		Use:   "show",
		Short: "Print infra/secrets/data.yaml with its values hidden",
		Long: `Print what infra/secrets/data.yaml holds, with the length of each value in its place, and for whom
it is encrypted. With --reveal the values themselves are printed; a file that they go to is made readable
by its owner only.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			k, err := o.keptSecrets(false)
			if err != nil {
				return err
			}
			text, err := k.file.Redacted()
			if reveal {
				o.closeOut()
				text, err = k.file.Plain()
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(o.out, "# encrypted for %s\n%s", strings.Join(k.file.Recipients(), ", "), text)
			return err
		},
	}
	c.Flags().BoolVar(&reveal, "reveal", false, "print the values")
	return c
}

// secretsRotated is what `secrets rotate -o json` prints; its form is a contract.
type secretsRotated struct {
	File       string   `json:"file"`
	Recipients []string `json:"recipients"`
}

func newSecretsRotate(o *options) *cobra.Command {
	var add, remove []string
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Encrypt infra/secrets/data.yaml under a new data key, for more or fewer recipients",
		Long: `Encrypt infra/secrets/data.yaml anew, under a new data key, for those that .sops.yaml names. --add-recipient
and --remove-recipient change .sops.yaml first.

Who was removed can still decrypt what is in the history of git: change the values too
('orrery secrets set … --random').`,
		Example: `  orrery secrets rotate
  orrery secrets rotate --add-recipient age1… --remove-recipient age1…`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			k, err := o.keptSecrets(false)
			if err != nil {
				return err
			}
			recipients := k.recipients
			for _, r := range remove {
				if !slices.Contains(recipients, r) {
					return failure.Usagef("--remove-recipient %s: it is not for that one, but for %s", r, strings.Join(recipients, ", "))
				}
			}
			recipients = slices.DeleteFunc(slices.Clone(recipients), func(r string) bool { return slices.Contains(remove, r) })
			for _, r := range add {
				if !slices.Contains(recipients, r) {
					recipients = append(recipients, r)
				}
			}
			// Nothing is written before all of it can be.
			if err := k.file.CanEncrypt(recipients); err != nil {
				return failure.Usage{Err: err}
			}
			if err := k.file.Save(dataPath(k.root), recipients); err != nil {
				return err
			}
			if err := k.config.SetRecipients(recipients); err != nil {
				return err
			}
			if o.json() {
				return printJSON(o.out, secretsRotated{secrets.DataFile, recipients})
			}
			_, err = fmt.Fprintf(o.out, "%s has a new data key, for %s\n", secrets.DataFile, strings.Join(recipients, ", "))
			return err
		},
	}
	c.Flags().StringArrayVar(&add, "add-recipient", nil, "a public key of age that can decrypt it from now on")
	c.Flags().StringArrayVar(&remove, "remove-recipient", nil, "one that cannot any more")
	return c
}

func newSecretsCheck(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Refuse files of secrets with a value in the clear, or that somebody changed (exit status 1)",
		Long: `Look at every file that a rule of .sops.yaml is for, and at all of infra/secrets: every value that the
rule says is to be encrypted is, it is for those whom the rule names, and, where a key is here, nobody
changed it without one. For hooks and CI: without a key it says what it could not look at.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return checkSecrets(o) },
	}
}

func checkSecrets(o *options) error {
	root, err := o.secretsRoot()
	if err != nil {
		return err
	}
	keys, _, noKey := secrets.Keys(root, os.Getenv)
	if noKey != nil && !errors.Is(noKey, secrets.ErrNoKey) {
		return failure.Usage{Err: noKey}
	}
	r, err := secrets.Check(root, keys, noKey)
	if err != nil {
		return failure.Usage{Err: err}
	}
	if o.json() {
		err = printJSON(o.out, r)
	} else {
		for _, f := range r.Faults {
			fmt.Fprintf(o.out, "%s: %s\n", f.File, f.Problem)
		}
		if len(r.Unverified) > 0 {
			why := "it is for keys that are not here"
			if r.NoKey != "" {
				why = "there is no key here"
			}
			fmt.Fprintf(o.out, "skipped: whether somebody changed %s was not looked at: %s\n", strings.Join(r.Unverified, ", "), why)
		}
		if len(r.Faults) == 0 {
			_, err = fmt.Fprintf(o.out, "%d files: every value is encrypted\n", len(r.Files))
		}
	}
	if err == nil && len(r.Faults) > 0 {
		return exitError(exitFailed)
	}
	return err
}
