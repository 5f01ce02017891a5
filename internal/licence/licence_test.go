package licence

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const mit = `Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
`

const isc = `Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted, provided that the above copyright notice and this permission notice appear in all copies.

THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT, INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR IN CONNECTION WITH THE USE OR PERFORMANCE OF THIS SOFTWARE.
`

func TestOf(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		want  string
	}{
		"one":               {map[string]string{"LICENSE": "The MIT License\n\nCopyright (c) 2020 A\n\n" + mit, "main.go": "package main"}, "MIT"},
		"British":           {map[string]string{"licence.md": mit}, "MIT"},
		"two":               {map[string]string{"LICENSE": mit, "COPYING.isc": isc}, "ISC AND MIT"},
		"none":              {map[string]string{"README": mit}, Unknown},
		"strange":           {map[string]string{"LICENSE": "Use it as you like, on Tuesdays."}, Unknown},
		"one of them is":    {map[string]string{"LICENSE": mit, "LICENSE-assets": "All rights reserved by somebody."}, Unknown},
		"program of a tool": {map[string]string{"LICENSE": mit, "license.go": "package x"}, "MIT"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range tc.files {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := Of(dir); got != tc.want || err != nil {
				t.Errorf("got %q, %v; want %q", got, err, tc.want)
			}
		})
	}
	if _, err := Of(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("an absent folder is no error")
	}
}

func TestPolicy(t *testing.T) {
	p, err := ParsePolicy([]byte(`
apiVersion: orrery.dev/v1alpha1
kind: LicencePolicy
allowed: [MIT, ISC]
exceptions:
  example.org/odd: {licence: Apache-2.0, reason: the header of each file says so}
`), "policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ module, detected, want, err string }{
		{"example.org/a", "MIT", "MIT", ""},
		{"example.org/a", "ISC AND MIT", "ISC AND MIT", ""},
		{"example.org/a", "GPL-3.0 AND MIT", "GPL-3.0 AND MIT", "GPL-3.0"},
		{"example.org/a", Unknown, Unknown, "not recognised"},
		{"example.org/odd", Unknown, "Apache-2.0", ""},
	} {
		got, err := p.Decide(tc.module, tc.detected)
		if got != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("Decide(%s, %s) = %q, %v", tc.module, tc.detected, got, err)
		}
	}
	var none *Policy
	if got, err := none.Decide("example.org/a", Unknown); got != Unknown || err != nil {
		t.Errorf("without a policy: %q, %v", got, err)
	}
	for name, text := range map[string]string{
		"unknown field": "apiVersion: orrery.dev/v1alpha1\nkind: LicencePolicy\ncolour: red\n",
		"version":       "apiVersion: orrery.dev/v9\nkind: LicencePolicy\n",
		"no reason":     "apiVersion: orrery.dev/v1alpha1\nkind: LicencePolicy\nexceptions: {a.b/c: {licence: MIT}}\n",
	} {
		if _, err := ParsePolicy([]byte(text), "policy.yaml"); err == nil || !strings.Contains(err.Error(), "policy.yaml") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCache(t *testing.T) {
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "sub", "licences.json")
	if err := os.WriteFile(filepath.Join(dir, "LICENSE"), []byte(mit), 0o600); err != nil {
		t.Fatal(err)
	}
	c := OpenCache(file)
	if got, err := c.Of("k", dir); got != "MIT" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
	if got, err := OpenCache(file).Of("k", "/nonexistent"); got != "MIT" || err != nil {
		t.Errorf("it was not remembered: %q, %v", got, err)
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := OpenCache(file).Of("k", dir); got != "MIT" || err != nil {
		t.Errorf("after damage: %q, %v", got, err)
	}
}

func TestExcepts(t *testing.T) {
	p := &Policy{Exceptions: map[string]Exception{"a": {Licence: "MIT", Reason: "its README"}}}
	if !p.Excepts("a") || p.Excepts("b") || (*Policy)(nil).Excepts("a") {
		t.Error("a is excepted, and nothing else")
	}
}
