package absent

import (
	"errors"
	"fmt"
	"strings"
)

// List says what a program leaves out.
type List struct {
	Modules map[string]bool
	// keep are declarations that are needed and cannot be found by looking at the program.
	keep []string
	// bodies are statements by PACKAGE.TYPE.NAME: what a function that is called does instead.
	bodies map[string]string
}

// Parse reads a list, of lines and comments (#):
//
//	module PATH              is left out
//	keep PACKAGE.NAME        a declaration that is needed and was not found, or
//	keep PACKAGE.TYPE.NAME   a method or field; * for all
//	func PACKAGE.TYPE.NAME BODY   what a function that is called does instead
func Parse(text string) (List, error) {
	l := List{Modules: map[string]bool{}, bodies: map[string]string{}}
	for n, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		verb, rest, _ := strings.Cut(line, " ")
		name, body, _ := strings.Cut(strings.TrimSpace(rest), " ")
		if name == "" {
			return l, fmt.Errorf("line %d: %q says nothing", n+1, line)
		}
		switch verb {
		case "module":
			l.Modules[name] = true
		case "keep":
			l.keep = append(l.keep, name)
		case "func":
			if body == "" {
				return l, fmt.Errorf("line %d: %s has no body", n+1, name)
			}
			l.keep = append(l.keep, name)
			l.bodies[name] = body
		default:
			return l, fmt.Errorf("line %d: %q is none of module, keep, func", n+1, verb)
		}
	}
	if len(l.Modules) == 0 {
		return l, errors.New("names no module")
	}
	return l, nil
}
