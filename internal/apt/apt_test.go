package apt

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeApt is an apt that has the packages of one archive only, and writes down how it was
// called.
func fakeApt(t *testing.T, has string) (log string) {
	t.Helper()
	if _, err := os.Stat(Keyring); err != nil {
		t.Skip("no keyring of Debian's: ", err)
	}
	dir := t.TempDir()
	log = filepath.Join(dir, "log")
	for name, script := range map[string]string{
		"dpkg-deb":   "exit 0",
		"apt-config": `echo 'Acquire::http::Proxy "http://proxy:3128";'; echo 'Acquire::Retries "99";'`,
		"apt-get": `cat "$APT_CONFIG" $(dirname "$APT_CONFIG")/sources.list >>` + log + `
case "$*" in
*update) ;;
*download*) grep -q ` + has + ` $(dirname "$APT_CONFIG")/sources.list || { echo "E: Version '1:2' for 'tool' was not found" >&2; exit 100; }
	echo deb >'tool_1%3a2_amd64.deb' ;;
esac`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return log
}

var tool = Request{Suite: "bookworm", Snapshot: "20260901T000000Z", Arch: "amd64", Packages: []Package{{"tool", "1:2"}}}

func TestFetch(t *testing.T) {
	for _, from := range []string{"deb.debian.org", "snapshot.debian.org"} {
		log := fakeApt(t, from)
		dir := t.TempDir()
		files, err := Fetch(t.Context(), dir, tool)
		if err != nil || len(files) != 1 || filepath.Base(files[0]) != "tool_1%3a2_amd64.deb" {
			t.Fatalf("%s: %v, %v", from, files, err)
		}
		said, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`Acquire::http::Proxy "http://proxy:3128"`, `Dir::State::lists "` + dir, `Dir::Cache "` + dir, `Dir::Etc::parts "/dev/null"`, "[signed-by=" + Keyring} {
			if !strings.Contains(string(said), want) {
				t.Errorf("%s: apt does not read %s:\n%s", from, want, said)
			}
		}
		if strings.Contains(string(said), `"99"`) {
			t.Error("settings of the host are taken that do not say how to reach servers")
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*", "apt")); len(left) > 0 {
			t.Errorf("apt's lists are left: %v", left)
		}
	}
}

func TestFetchFails(t *testing.T) {
	fakeApt(t, "nowhere")
	_, err := Fetch(t.Context(), t.TempDir(), tool)
	for _, want := range []string{"deb.debian.org: apt-get download", "snapshot.debian.org: apt-get download", "was not found"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %q in it", err, want)
		}
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := Fetch(t.Context(), t.TempDir(), tool); !errors.Is(err, ErrUnavailable) {
		t.Errorf("no apt: %v", err)
	}
}
