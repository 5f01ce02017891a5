package licence

import (
	"slices"
	"strings"
	"testing"
)

func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte("apiVersion: orrery.dev/v1alpha1\nkind: LicencePolicy\nallowed: [MIT]\nexceptions:\n  a: {licence: MIT, reason: b}\n"), "a", "MIT AND ISC")
	f.Add([]byte("kind: LicencePolicy"), "", "")
	f.Fuzz(func(t *testing.T, data []byte, module, detected string) {
		p, err := ParsePolicy(data, "fuzz")
		if err != nil {
			return
		}
		decided, err := p.Decide(module, detected)
		if err != nil {
			return
		}
		if e, ok := p.Exceptions[module]; ok {
			if decided != e.Licence {
				t.Errorf("%q, the exception is %q", decided, e.Licence)
			}
			return
		}
		for _, id := range strings.Split(detected, " AND ") {
			if !slices.Contains(p.Allowed, id) {
				t.Errorf("%q was let through by %q", detected, p.Allowed)
			}
		}
	})
}
