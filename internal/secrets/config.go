package secrets

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"filippo.io/age"
	"go.yaml.in/yaml/v3"

	"github.com/orrery-dev/orrery/internal/atomicfile"
)

// Config is .sops.yaml: for whom which files are encrypted.
type Config struct {
	root string
	doc  *yaml.Node // nil: there is no file yet
}

// Rule is an entry of creation_rules. The first whose PathRegex a file matches is its.
type Rule struct {
	PathRegex  *regexp.Regexp // nil matches all
	Recipients []string       // of age

	selection selection
	node      *yaml.Node
}

// LoadConfig reads .sops.yaml at the root of the repository. That there is none is no error.
func LoadConfig(root string) (*Config, error) {
	c := &Config{root: root}
	path := filepath.Join(root, ConfigFile)
	data, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	docs, err := parse(data)
	if err == nil && len(docs) > 1 {
		err = errors.New("a second document begins; write one")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	c.doc = docs[0]
	if _, err := c.Rules(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Rules are the creation_rules.
func (c *Config) Rules() ([]Rule, error) {
	if c.doc == nil {
		return nil, nil
	}
	list := child(c.doc, "creation_rules")
	if list == nil {
		return nil, nil
	}
	var rules []Rule
	for i, n := range list.Content {
		var raw struct {
			PathRegex         string         `yaml:"path_regex"`
			Age               yaml.Node      `yaml:"age"`
			EncryptedRegex    string         `yaml:"encrypted_regex"`
			UnencryptedRegex  string         `yaml:"unencrypted_regex"`
			EncryptedSuffix   string         `yaml:"encrypted_suffix"`
			UnencryptedSuffix string         `yaml:"unencrypted_suffix"`
			Others            map[string]any `yaml:",inline"`
		}
		at := fmt.Sprintf("creation_rules[%d]", i)
		if err := n.Decode(&raw); err != nil {
			return nil, fmt.Errorf("%s: %w", at, clean(err))
		}
		r := Rule{node: n, selection: selection{unencryptedSuffix: raw.UnencryptedSuffix, encryptedSuffix: raw.EncryptedSuffix}}
		if err := errors.Join(compile("path_regex", raw.PathRegex, &r.PathRegex), compile("encrypted_regex", raw.EncryptedRegex, &r.selection.encryptedRegex),
			compile("unencrypted_regex", raw.UnencryptedRegex, &r.selection.unencryptedRegex)); err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		if r.selection == (selection{}) {
			r.selection.unencryptedSuffix = "_unencrypted" // which is what SOPS takes
		}
		switch raw.Age.Kind {
		case yaml.ScalarNode: // several are parted by commas
			for one := range strings.SplitSeq(raw.Age.Value, ",") {
				if one = strings.TrimSpace(one); one != "" {
					r.Recipients = append(r.Recipients, one)
				}
			}
		case yaml.SequenceNode:
			for _, one := range raw.Age.Content {
				r.Recipients = append(r.Recipients, one.Value)
			}
		}
		for _, recipient := range r.Recipients {
			if _, err := age.ParseX25519Recipient(recipient); err != nil {
				return nil, fmt.Errorf("%s.age: %q: %w", at, recipient, err)
			}
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// RuleFor is the rule of a file, by its path from the root with slashes.
func (c *Config) RuleFor(path string) (Rule, bool, error) {
	rules, err := c.Rules()
	if err != nil {
		return Rule{}, false, err
	}
	for _, r := range rules {
		if r.PathRegex == nil || r.PathRegex.MatchString(path) {
			return r, true, nil
		}
	}
	return Rule{}, false, nil
}

// ruleComment explains the file that [Config.SetRecipients] makes.
const ruleComment = " For whom files of secrets are encrypted: public keys of age, a line each. 'orrery secrets rotate'\n" +
	"# changes them, and encrypts the files anew. See infra/secrets/README.md."

// SetRecipients writes for whom the manifests of Secrets are encrypted, and makes their rule where
// there is none. All else of the file stays.
func (c *Config) SetRecipients(recipients []string) error {
	rule, ok, err := c.RuleFor(DataFile)
	if err != nil {
		return err
	}
	if ok && slices.Equal(rule.Recipients, recipients) {
		return nil
	}
	list := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	for _, r := range recipients {
		list.Content = append(list.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: r})
	}
	switch {
	case ok:
		if at := child(rule.node, "age"); at != nil {
			*at = *list
		} else {
			rule.node.Content = append(rule.node.Content, scalar("age"), list)
		}
	default:
		if c.doc == nil {
			c.doc = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", HeadComment: "#" + ruleComment}
		}
		rules := child(c.doc, "creation_rules")
		if rules == nil {
			rules = &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
			c.doc.Content = append(c.doc.Content, scalar("creation_rules"), rules)
		}
		rules.Content = append(rules.Content, &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Content: []*yaml.Node{
			scalar("path_regex"), scalar(`^infra/secrets/.*\.yaml$`), scalar("encrypted_regex"), scalar(manifestRegex), scalar("age"), list}})
	}
	data, err := format([]*yaml.Node{c.doc})
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(c.root, ConfigFile), data, 0o644)
}

func scalar(text string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(text)
	return n
}

// Fault is something that is wrong with a file of secrets; no value is in it.
type Fault struct {
	File    string `json:"file"`
	Problem string `json:"problem"`
}

// Report is what [Check] found.
type Report struct {
	Files  []string `json:"files"` // that were looked at, from the root
	Faults []Fault  `json:"faults"`
	// Unverified are files whose MAC could not be looked at, with the reason in NoKey.
	Unverified []string `json:"unverified"`
	NoKey      string   `json:"noKey,omitempty"`
}

// Check looks at every file that a rule of .sops.yaml is for: what the rule says is to be
// encrypted is, the recipients are the rule's, and, with keys, the MAC is right.
func Check(root string, keys []age.Identity, noKey error) (Report, error) {
	r := Report{Files: []string{}, Faults: []Fault{}, Unverified: []string{}}
	c, err := LoadConfig(root)
	if err != nil {
		return r, err
	}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != root && (name == ".git" || name == "node_modules" || name == "dist") {
				return fs.SkipDir
			}
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		rule, ok, err := c.RuleFor(rel)
		if err != nil || rel == ConfigFile || rel == KeyFile {
			return err
		}
		if !ok {
			if ext := filepath.Ext(rel); strings.HasPrefix(rel, Dir+"/") && ext != ".md" && d.Name() != ".gitignore" {
				r.Files = append(r.Files, rel)
				r.Faults = append(r.Faults, Fault{rel, "no rule of " + ConfigFile + " is for it, so that nothing encrypts it"})
			}
			return nil
		}
		r.Files = append(r.Files, rel)
		problems, verified := checkFile(path, d, rule, keys)
		for _, p := range problems {
			r.Faults = append(r.Faults, Fault{rel, p})
		}
		if !verified && len(problems) == 0 {
			r.Unverified = append(r.Unverified, rel)
		}
		return nil
	})
	if len(r.Unverified) > 0 && noKey != nil {
		r.NoKey = noKey.Error()
	}
	return r, err
}

func checkFile(path string, d fs.DirEntry, rule Rule, keys []age.Identity) (problems []string, verified bool) {
	if !d.Type().IsRegular() {
		return []string{"it is no regular file"}, false
	}
	data, err := read(path)
	if err != nil {
		return []string{err.Error()}, false
	}
	docs, err := parse(data)
	if err != nil {
		return []string{err.Error()}, false
	}
	m, err := takeMetadata(docs)
	if err != nil {
		return []string{err.Error()}, false
	}
	w := inspector(rule.selection, func(n *yaml.Node, path []string) {
		problems = append(problems, fmt.Sprintf("line %d: %s is in the clear", n.Line, strings.Join(path, ".")))
	})
	if err := w.documents(docs); err != nil {
		return append(problems, err.Error()), false
	}
	f, err := m.file(docs)
	if err != nil {
		return append(problems, err.Error()), false
	}
	if len(rule.Recipients) > 0 && !slices.Equal(slices.Sorted(slices.Values(f.recipients)), slices.Sorted(slices.Values(rule.Recipients))) {
		problems = append(problems, fmt.Sprintf("it is encrypted for %s, and %s says for %s: orrery secrets rotate",
			strings.Join(f.recipients, ", "), ConfigFile, strings.Join(rule.Recipients, ", ")))
	}
	if len(keys) == 0 {
		return problems, false
	}
	_, err = Decrypt(data, keys)
	switch {
	case errors.Is(err, ErrWrongKey):
		return problems, false
	case err != nil:
		problems = append(problems, err.Error())
	}
	return problems, true
}

// Encrypted says what is against a file of secrets being read by everybody: without its rule and
// a key, that is whether SOPS encrypted it and left no value of a Secret in the clear.
func Encrypted(data []byte) error {
	docs, err := parse(data)
	if err != nil {
		return err
	}
	m, err := takeMetadata(docs)
	if err != nil {
		return err
	}
	f, err := m.file(docs)
	if err != nil {
		return err
	}
	w := inspector(f.selection, func(n *yaml.Node, path []string) {
		err = fmt.Errorf("line %d: %s: %w", n.Line, strings.Join(path, "."), ErrPlain)
	})
	if faulty := w.documents(docs); faulty != nil {
		return faulty
	}
	return err
}

// Exists reports whether the repository has manifests of Secrets.
func Exists(root string) bool {
	_, err := os.Lstat(filepath.Join(root, filepath.FromSlash(DataFile)))
	return err == nil
}
