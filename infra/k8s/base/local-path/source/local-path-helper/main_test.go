package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestCreateAndDelete(t *testing.T) {
	volume := filepath.Join(t.TempDir(), "pvc-1_ns_name")
	args := func(action string) []string {
		return []string{"-p", volume, "-s", "1024", "-m", "Filesystem", "-a", action}
	}
	for range 2 { // a retried helper pod finds its work done
		if err := run(args("create"), volume); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(volume)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o777 {
		t.Errorf("mode %v, want 0777", info.Mode().Perm())
	}
	if err := os.WriteFile(filepath.Join(volume, "data"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := run(args("delete"), volume); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(volume); !os.IsNotExist(err) {
		t.Errorf("volume still there: %v", err)
	}
}

func TestRefuses(t *testing.T) {
	parent := t.TempDir()
	outside := t.TempDir()
	keep := filepath.Join(outside, "keep")
	if err := os.WriteFile(keep, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(parent, "link")
	if err := os.Symlink(outside, link); err != nil {
		t.Fatal(err)
	}
	volume := filepath.Join(parent, "v")
	for name, tc := range map[string]struct {
		args   []string
		volDir string
	}{
		"no action":       {[]string{"-p", volume}, ""},
		"unknown action":  {[]string{"-p", volume, "-a", "format"}, ""},
		"block volume":    {[]string{"-p", volume, "-m", "Block", "-a", "create"}, ""},
		"relative":        {[]string{"-p", "v", "-a", "create"}, ""},
		"climbs out":      {[]string{"-p", parent + "/../x", "-a", "delete"}, ""},
		"below root":      {[]string{"-p", "/etc", "-a", "delete"}, ""},
		"root":            {[]string{"-p", "/", "-a", "delete"}, ""},
		"no path":         {[]string{"-a", "delete"}, ""},
		"VOL_DIR differs": {[]string{"-p", volume, "-a", "delete"}, parent + "/w"},
		"through a link":  {[]string{"-p", link, "-a", "create"}, ""},
		"extra argument":  {[]string{"-p", volume, "-a", "create", "more"}, ""},
	} {
		if err := run(tc.args, tc.volDir); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// Deleting a volume that somebody replaced by a link removes the link alone.
	if err := run([]string{"-p", link, "-a", "delete"}, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(keep); err != nil {
		t.Errorf("delete went through the link: %v", err)
	}
}
