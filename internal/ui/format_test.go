package ui

import (
	"math"
	"strings"
	"testing"
)

func TestSeconds(t *testing.T) {
	for s, want := range map[float64]string{
		0: "0.0 s", 0.04: "0.0 s", 0.44: "0.4 s", 9.94: "9.9 s", 9.96: "10 s", 59.4: "59 s", 59.6: "1 min 00 s",
		185: "3 min 05 s", 3599.6: "1 h 00 min", 3725: "1 h 02 min", 200000: "2 d 07 h", -3: "-3.0 s", math.Inf(1): "?",
	} {
		if got := Seconds(s); got != want {
			t.Errorf("Seconds(%v) = %q, want %q", s, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 4 << 10: "4.0 KiB", 183 << 20: "183 MiB", 1023 << 20: "1.0 GiB",
		160_000_000: "153 MiB", 15 << 30: "15 GiB", math.MaxInt64: "8192 PiB", -2048: "-2.0 KiB", math.MinInt64: "-8192 PiB",
	} {
		if got := Size(n); got != want {
			t.Errorf("Size(%v) = %q, want %q", n, got, want)
		}
	}
}

func TestLeft(t *testing.T) {
	for s, want := range map[float64]string{
		0: "", -1: "", 3: "a few seconds left", 41: "about 45 s left", 100: "about 2 min left", 4000: "about 67 min left", 9000: "about 2.5 h left",
	} {
		if got := Left(s); got != want {
			t.Errorf("Left(%v) = %q, want %q", s, got, want)
		}
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	err := Table(&b, []string{"NODE", "ZONE", "WHY"}, [][]string{{"server1", "a"}, {"é", "", "line one\nline two\x1b[31m\a"}})
	if err != nil {
		t.Fatal(err)
	}
	want := "NODE     ZONE  WHY\nserver1  a     -\né        -     line one line two\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestTableBlankHeader(t *testing.T) {
	var b strings.Builder
	if err := Table(&b, []string{"", "CHECK"}, [][]string{{"ok", "root"}, {"", "nft"}}); err != nil {
		t.Fatal(err)
	}
	if want := "    CHECK\nok  root\n-   nft\n"; b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
	b.Reset()
	if err := Table(&b, nil, [][]string{{"a", "b"}}); err != nil || b.String() != "a  b\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"\x1b[1;31merror:\x1b[0m no\tsuch\r\n":      "error: no such",
		"\x1b]8;;http://x\x1b\\link\x1b]0;title\a!": "link!",
		"bad\xff\u0085\x00byte":                     "bad?byte",
		"cut off \x1b[":                             "cut off [",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}
