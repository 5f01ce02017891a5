package absent

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	l, err := Parse("# why\nmodule example.org/b\n\nkeep example.org/b.T.*\nfunc example.org/b.T.Valid return false\n")
	if err != nil {
		t.Fatal(err)
	}
	if !l.Modules["example.org/b"] || len(l.keep) != 2 || l.bodies["example.org/b.T.Valid"] != "return false" {
		t.Errorf("%+v", l)
	}
	for text, says := range map[string]string{
		"keep a.B":             "names no module",
		"module b\nmodules b":  `line 2: "modules" is none of`,
		"module":               "says nothing",
		"module b\nfunc b.C":   "has no body",
		"module a\nmodule\nx ": "line 2",
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("module a\nkeep a.B\nfunc a.C return nil\n# x")
	f.Fuzz(func(t *testing.T, text string) {
		if l, err := Parse(text); err == nil && len(l.Modules) == 0 {
			t.Error("a list without modules was taken")
		}
	})
}
