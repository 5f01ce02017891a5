package app

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/orrery-dev/orrery/internal/spec"
)

var updateDocs = flag.Bool("update", false, "write docs/reference/cli.md")

const docsRoot = "../.."

// TestReference holds docs/reference/cli.md to what the program says of itself.
func TestReference(t *testing.T) {
	file := filepath.Join(docsRoot, "docs", "reference", "cli.md")
	want := cliReference(newRoot(&streams{}))
	if *updateDocs {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want) {
		t.Errorf("%s is not what the program says; run: go test ./internal/app -run TestReference -update", file)
	}
}

func cliReference(root *cobra.Command) []byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, "# Command line\n\nWritten by a test from the program itself:\n`go test ./internal/app -run TestReference -update`.")
	fmt.Fprintf(&b, "\n```text\n%s\n```\n", root.Long)
	fmt.Fprintf(&b, "\n## Flags of every verb\n\n%s", flagTable(root.PersistentFlags()))
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
			return
		}
		if c.Runnable() {
			fmt.Fprintf(&b, "\n## %s\n\n%s\n\n```text\n%s\n```\n", c.CommandPath(), cmp.Or(c.Long, c.Short+"."), c.UseLine())
			if c.Example != "" {
				fmt.Fprintf(&b, "\n```bash\n%s\n```\n", dedent(c.Example))
			}
			if c.LocalNonPersistentFlags().HasAvailableFlags() {
				fmt.Fprintf(&b, "\n%s", flagTable(c.LocalNonPersistentFlags()))
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	for _, c := range root.Commands() {
		walk(c)
	}
	return b.Bytes()
}

func flagTable(set *pflag.FlagSet) string {
	var b strings.Builder
	b.WriteString("| Flag | |\n|---|---|\n")
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		fmt.Fprintf(&b, "| `%s` | %s |\n", name, f.Usage)
	})
	return b.String()
}

func dedent(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = strings.TrimPrefix(l, "  ")
	}
	return strings.Join(lines, "\n")
}

// command finds "orrery …" in a text: up to what cannot be a verb, and what else belongs to it.
var command = regexp.MustCompile("(?m)(?:^|[\\s(`&|'])(?:go run \\./cmd/)?orrery((?: [a-z][a-z-]*)+)([^\n`|#;&()]*)")

// codeBlocks and codeSpans are the parts of Markdown that quote commands, goQuotes those of
// messages.
var (
	codeBlocks = regexp.MustCompile("(?s)```bash\n(.*?)```")
	codeSpans  = regexp.MustCompile("`[^`\n]+`")
	goQuotes   = regexp.MustCompile(`'orrery [^'\n]+'`)
	quotation  = regexp.MustCompile(`'[^'\n]*'|"[^"\n]*"`)
)

// TestDocumentedCommandsExist reads every Markdown file, and what the program says to people,
// and asks the program whether the verbs and flags that they show are there.
func TestDocumentedCommandsExist(t *testing.T) {
	root := newRoot(&streams{})
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	seen, flags := 0, 0
	look := func(file, text string) {
		for _, m := range command.FindAllStringSubmatch(text, -1) {
			seen++
			words := strings.Fields(m[1])
			found, _, err := root.Find(words)
			// A verb that only holds others does nothing by itself.
			if err != nil || found == root || (!found.Runnable() && len(words) > 1) {
				t.Errorf("%s: no verb in %q", file, "orrery"+m[1])
				continue
			}
			if found.DisableFlagParsing { // they are kubectl's
				continue
			}
			found.InitDefaultHelpFlag()
			for _, word := range strings.Fields(m[2]) {
				name, long := strings.CutPrefix(word, "--")
				name, _, _ = strings.Cut(strings.TrimRight(name, ".,:]"), "=")
				switch {
				case long && found.Flag(name) == nil, !long && len(word) == 2 && word[0] == '-' && found.Flags().ShorthandLookup(word[1:]) == nil && found.InheritedFlags().ShorthandLookup(word[1:]) == nil:
					t.Errorf("%s: %q has no flag %s", file, "orrery"+m[1], word)
				case word[0] == '-':
					flags++
				}
			}
		}
	}
	for _, file := range files(t, ".md", "*.md", "docs", "infra", "tools") {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range codeBlocks.FindAllSubmatch(b, -1) {
			look(file, quotation.ReplaceAllString(string(m[1]), "X"))
		}
		for _, m := range codeSpans.FindAllString(codeBlocks.ReplaceAllString(string(b), ""), -1) {
			look(file, m)
		}
	}
	for _, file := range files(t, ".go", "internal", "cmd") {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range goQuotes.FindAllString(string(b), -1) {
			look(file, strings.ReplaceAll(strings.Trim(m, "'"), "%s", ""))
		}
	}
	if seen < 200 || flags < 50 {
		t.Errorf("found only %d commands and %d flags: the search is broken", seen, flags)
	}
}

// TestDocumentedLinksExist follows every relative link, to its heading too.
func TestDocumentedLinksExist(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]*)(?:#([^):]*))?\)`)
	heading := regexp.MustCompile(`(?m)^#+ +(.+)$`)
	beside := regexp.MustCompile("[^a-z0-9 _-]")
	anchors := func(file string) []string {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		}
		var all []string
		for _, m := range heading.FindAllSubmatch(b, -1) {
			all = append(all, strings.ReplaceAll(beside.ReplaceAllString(strings.ToLower(string(m[1])), ""), " ", "-"))
		}
		return all
	}
	for _, file := range files(t, ".md", "*.md", "docs", "infra", "tools") {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(b), -1) {
			to := file
			if m[1] != "" {
				to = filepath.Join(filepath.Dir(file), m[1])
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: %v", file, err)
			} else if m[2] != "" && !slices.Contains(anchors(to), m[2]) {
				t.Errorf("%s: %s has no heading #%s", file, to, m[2])
			}
		}
	}
}

// TestDocumentedEnvironmentLoads reads the example of orrery-yaml.md as orrery would.
func TestDocumentedEnvironmentLoads(t *testing.T) {
	file := filepath.Join(docsRoot, "docs", "reference", "orrery-yaml.md")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "```yaml\n")
	example, _, _ := strings.Cut(rest, "```")
	got, err := spec.Parse([]byte(example), file)
	if err != nil {
		t.Fatal(err)
	}
	want := spec.Default()
	want.Node.Memory, want.Components = got.Node.Memory, got.Components
	// Where there is no default, the page shows an example.
	want.Images = got.Images
	want.Images.Sources, want.Images.Verify = spec.Default().Images.Sources, spec.Default().Images.Verify
	if fmt.Sprintf("%+v", dereferenced(got)) != fmt.Sprintf("%+v", dereferenced(want)) {
		t.Errorf("the page says that its values are the defaults:\n got %+v\nwant %+v", got, want)
	}
}

func dereferenced(e spec.Environment) any {
	agents := e.AgentCount()
	e.Agents = nil
	return struct {
		spec.Environment
		count int
	}{e, agents}
}

// files are those with the extension among what matches and below the folders of it.
func files(t *testing.T, ext string, patterns ...string) []string {
	t.Helper()
	var all []string
	for _, pattern := range patterns {
		found, err := filepath.Glob(filepath.Join(docsRoot, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			err := filepath.WalkDir(f, func(path string, d fs.DirEntry, err error) error {
				if err == nil && filepath.Ext(path) == ext {
					all = append(all, path)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	slices.Sort(all)
	return all
}
