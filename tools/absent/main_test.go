package main

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	w, err := parse("# why\nmain example.org/a/cmd\nmodule example.org/b\n\nkeep example.org/b.T.*\nfunc example.org/b.T.Valid return false\n")
	if err != nil {
		t.Fatal(err)
	}
	if w.main != "example.org/a/cmd" || !w.modules["example.org/b"] || len(w.keep) != 2 || w.bodies["example.org/b.T.Valid"] != "return false" {
		t.Errorf("%+v", w)
	}
	for text, says := range map[string]string{
		"module a":             "names no main package",
		"main a":               "or no module",
		"main a\nmodules b":    `line 2: "modules" is none of`,
		"main a\nmodule":       "says nothing",
		"main a\nfunc b.C":     "has no body",
		"main a\nmodule b\nx ": "line 3",
	} {
		if _, err := parse(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
}
