package jobline

import (
	"fmt"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/check"
)

func FuzzTake(f *testing.F) {
	for _, line := range []string{`{"name":"a","state":"succeeded","detail":"well","seconds":1.5}`, "{}",
		`{"name":"a","state":"failed","detail":"\u001b","seconds":1e99}`, `{"name":"a"} {}`, "{\xff"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		l := Lines{Open: []string{"a", "b"}}
		name, r, err := l.Take(line)
		if err == nil && name != "" && (r.State == check.Running || r.Took < 0) {
			t.Errorf("%q: %+v", line, r)
		}
		for _, text := range append(l.log, r.Message, fmt.Sprint(err)) {
			if strings.ContainsAny(text, "\x1b\r\n\x00") || len(text) > 5*MaxDetail+500 {
				t.Errorf("%q: %q", line, text)
			}
		}
	})
}
