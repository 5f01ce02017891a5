// Package recipes holds the promise that the just and task recipes are orrery's own
// verbs under other names, so that neither can drift from the CLI.
package recipes

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/orrery-dev/orrery/internal/app"
)

const root = "../.."

// promised are the names that the seed's guide uses, and what stands behind them. just
// has no colon in names: its modules say `kube create` for `kube:create`.
var promised = map[string]string{
	"kube:create":    "cluster create",
	"kube:bootstrap": "bootstrap",
	"k8s:deploy":     "deploy",
	"verify:kube":    "verify",
	"up":             "up",
	"teardown":       "down",
}

func TestRecipesCallVerbs(t *testing.T) {
	just, task := justRecipes(t), taskRecipes(t)
	if diff := cmp.Diff(task, just); diff != "" {
		t.Errorf("just and task offer different recipes (-task +just):\n%s", diff)
	}
	for name, verb := range promised {
		if just[name] != verb {
			t.Errorf("recipe %s calls %q, want %q", name, just[name], verb)
		}
	}
	for name, verb := range just {
		if err := exists(verb); err != nil {
			t.Errorf("recipe %s: %v", name, err)
		}
	}
	// The check itself must be able to fail.
	if exists("no-such-verb") == nil {
		t.Error("a verb that does not exist was accepted")
	}
}

// exists asks the CLI for the help of the verb. An unknown one gets its parent's help.
func exists(verb string) error {
	var out, errs bytes.Buffer
	if code := app.Main(append(strings.Fields(verb), "--help"), strings.NewReader(""), &out, &errs); code != 0 {
		return fmt.Errorf("orrery %s --help: exit %d: %s", verb, code, errs.String())
	}
	usage := regexp.MustCompile(`(?m)^\s+orrery ` + regexp.QuoteMeta(verb) + `( |$)`)
	if !usage.MatchString(out.String()) {
		return fmt.Errorf("orrery has no verb %q", verb)
	}
	return nil
}

var (
	module = regexp.MustCompile(`^mod ([a-z0-9]+) '([^']+)'$`)
	recipe = regexp.MustCompile(`^([a-z0-9-]+)( [*+][a-z]+)?:$`)
	call   = regexp.MustCompile(`^\{\{ orrery \}\} ([a-z -]+) "\$@"$`)
	task   = regexp.MustCompile(`^\{\{\.ORRERY\}\} ([a-z -]+) \{\{\.CLI_ARGS\}\}$`)
)

// justRecipes maps "module:recipe" to the verb it calls.
func justRecipes(t *testing.T) map[string]string {
	t.Helper()
	if b := read(t, "justfile"); !strings.Contains(b, "\nimport 'infra/justfile'\n") {
		t.Error("the root justfile does not import infra/justfile")
	}
	all := map[string]string{}
	modules := parse(t, all, "", "infra/justfile")
	for name, file := range modules {
		parse(t, all, name+":", filepath.Join("infra", file))
	}
	return all
}

// parse knows the shapes that these files use and fails on any other, so that nothing
// goes unseen.
func parse(t *testing.T, all map[string]string, prefix, file string) map[string]string {
	t.Helper()
	modules := map[string]string{}
	current := ""
	for i, line := range strings.Split(read(t, file), "\n") {
		switch m := module.FindStringSubmatch(line); {
		case m != nil:
			modules[m[1]] = m[2]
		case line == "", strings.ContainsAny(line[:1], "#["), strings.HasPrefix(line, "import "), strings.HasPrefix(line, "set "):
		case strings.HasPrefix(line, "    ") && current != "":
			c := call.FindStringSubmatch(line[4:])
			if c == nil || all[current] != "" {
				t.Errorf("%s:%d: a recipe is one call of orrery that passes its arguments on, got %q", file, i+1, line)
				continue
			}
			all[current] = c[1]
		default:
			r := recipe.FindStringSubmatch(line)
			if r == nil {
				t.Errorf("%s:%d: neither a recipe nor a module: %q", file, i+1, line)
				continue
			}
			current = prefix + r[1]
			all[current] = ""
		}
	}
	return modules
}

func taskRecipes(t *testing.T) map[string]string {
	t.Helper()
	var file struct {
		Tasks map[string]struct{ Desc, Cmd string }
	}
	if err := yaml.Unmarshal([]byte(read(t, "Taskfile.yml")), &file); err != nil {
		t.Fatal(err)
	}
	delete(file.Tasks, "default")
	all := map[string]string{}
	for name, v := range file.Tasks {
		m := task.FindStringSubmatch(v.Cmd)
		if m == nil || v.Desc == "" {
			t.Errorf("Taskfile.yml: task %s: want a desc and one call of orrery, got %+v", name, v)
			continue
		}
		all[name] = m[1]
	}
	return all
}

// TestRunners has the real programs read the files, where they are installed.
func TestRunners(t *testing.T) {
	for _, runner := range []string{"just", "task"} {
		t.Run(runner, func(t *testing.T) {
			program, err := exec.LookPath(runner)
			if err != nil {
				t.Skipf("%s is not on PATH; what its file says was read by TestRecipesCallVerbs", runner)
			}
			for name, verb := range promised {
				args := []string{name, "--", "nats"}
				if runner == "just" {
					args = append(strings.Split(name, ":"), "nats")
				}
				cmd := exec.Command(program, args...)
				cmd.Dir = filepath.Join(root, "infra", "native")
				cmd.Env = append(slices.Clone(os.Environ()), "ORRERY=echo orrery")
				out, err := cmd.Output()
				if want := "orrery " + verb + " nats\n"; err != nil || string(out) != want {
					t.Errorf("%s %v: printed %q (%v), want %q", runner, args, out, err, want)
				}
			}
		})
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
