package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCompareFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	long := strings.Repeat("x", 200_000)
	first := write("kubelet", long+"abc")
	for content, want := range map[string]string{
		long + "abc":       "",
		long + "abd":       "kubelet, offset 200002: 0x63 and 0x64",
		long + "ab":        "kubelet, offset 200002: 0x63 and the end",
		long + "abcd":      "kubelet, offset 200003: the end and 0x64",
		"":                 "kubelet, offset 0: 0x78 and the end",
		"y" + long + "abc": "kubelet, offset 0: 0x78 and 0x79",
	} {
		m, err := CompareFiles(first, write("again", content))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if m != nil {
			got = m.String()
		}
		if got != want {
			t.Errorf("%d bytes: %q, want %q", len(content), got, want)
		}
	}
	if _, err := CompareFiles(first, filepath.Join(dir, "none")); err == nil {
		t.Error("a file that is not there")
	}
}
