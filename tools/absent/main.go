// Command absent makes a program cheaper to compile by leaving out modules that it links
// and, on this platform, never calls: the SDKs of the clouds that it could store its data
// in, say. For each it writes a module with the declarations that the program was written
// against and nothing behind them: a function that returns an error returns one that says
// so, any other panics with the same words. The program itself is not changed.
//
//	go run . DIR
//
// DIR holds go.mod, and absent.txt, which says:
//
//	main PACKAGE             the program
//	module PATH              is left out
//	keep PACKAGE.NAME        a declaration that is needed and was not found, or
//	keep PACKAGE.TYPE.NAME   a method or field; * for all
//	func PACKAGE.TYPE.NAME BODY   what a function that is called does instead
//
// The modules go to DIR/absent, and go.mod is told to use them. A module that DIR stands
// in for by hand is left alone.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: absent DIR")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "absent:", err)
		os.Exit(1)
	}
}

// wish is what absent.txt says.
type wish struct {
	main    string
	modules map[string]bool
	keep    []string
	bodies  map[string]string // PACKAGE.TYPE.NAME → statements
}

func run(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, "absent.txt"))
	if err != nil {
		return err
	}
	w, err := parse(string(data))
	if err != nil {
		return fmt.Errorf("%s/absent.txt: %w", dir, err)
	}
	out := filepath.Join(dir, "absent")
	// Their declarations are read from the real modules.
	for m := range w.modules {
		if err := edit(dir, "-dropreplace="+m); err != nil {
			return err
		}
	}
	g, err := load(dir, w)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	written, err := g.write(out)
	if err != nil {
		return err
	}
	for _, m := range written {
		if err := edit(dir, "-replace="+m+"=./absent/"+folder(m)); err != nil {
			return err
		}
	}
	for m := range w.modules {
		if !contains(written, m) {
			fmt.Fprintf(os.Stderr, "absent: nothing of %s is used: its line can go\n", m)
		}
	}
	return nil
}

func parse(text string) (wish, error) {
	w := wish{modules: map[string]bool{}, bodies: map[string]string{}}
	for n, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		verb, rest, _ := strings.Cut(line, " ")
		name, body, _ := strings.Cut(strings.TrimSpace(rest), " ")
		if name == "" {
			return w, fmt.Errorf("line %d: %q says nothing", n+1, line)
		}
		switch verb {
		case "main":
			w.main = name
		case "module":
			w.modules[name] = true
		case "keep":
			w.keep = append(w.keep, name)
		case "func":
			if body == "" {
				return w, fmt.Errorf("line %d: %s has no body", n+1, name)
			}
			w.keep = append(w.keep, name)
			w.bodies[name] = body
		default:
			return w, fmt.Errorf("line %d: %q is none of main, module, keep, func", n+1, verb)
		}
	}
	if w.main == "" || len(w.modules) == 0 {
		return w, fmt.Errorf("names no main package, or no module")
	}
	return w, nil
}

// folder of a module below absent.
func folder(module string) string { return strings.ReplaceAll(module, "/", "-") }

func edit(dir, flag string) error {
	cmd := exec.Command("go", "mod", "edit", flag)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	return cmd.Run()
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
