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

// command finds "orrery …" in a text, up to what cannot be a verb.
var command = regexp.MustCompile("(?m)(?:^|[\\s(`&|])(?:go run \\./cmd/)?orrery((?: [a-z][a-z-]*)+)")

// codeBlocks and codeSpans are the parts of Markdown that quote commands.
var (
	codeBlocks = regexp.MustCompile("(?s)```bash\n(.*?)```")
	codeSpans  = regexp.MustCompile("`[^`\n]+`")
)

// TestDocumentedCommandsExist reads every Markdown file and asks the program whether the
// verbs that it shows are there.
func TestDocumentedCommandsExist(t *testing.T) {
	root := newRoot(&streams{})
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	seen := 0
	for _, file := range markdown(t) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var quoted []string
		for _, m := range codeBlocks.FindAllSubmatch(b, -1) {
			quoted = append(quoted, string(m[1]))
		}
		quoted = append(quoted, codeSpans.FindAllString(string(b), -1)...)
		for _, q := range quoted {
			for _, m := range command.FindAllStringSubmatch(q, -1) {
				seen++
				words := strings.Fields(m[1])
				found, _, err := root.Find(words)
				// A verb that only holds others does nothing by itself.
				if err != nil || found == root || (!found.Runnable() && len(words) > 1) {
					t.Errorf("%s: no verb in %q", file, "orrery"+m[1])
				}
			}
		}
	}
	if seen < 30 {
		t.Errorf("found only %d commands: the search is broken", seen)
	}
}

// TestDocumentedLinksExist follows every relative link.
func TestDocumentedLinksExist(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)
	for _, file := range markdown(t) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllSubmatch(b, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(file), string(m[1]))); err != nil {
				t.Errorf("%s: %v", file, err)
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

func markdown(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(docsRoot, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(filepath.Join(docsRoot, "docs"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".md" {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	return files
}
