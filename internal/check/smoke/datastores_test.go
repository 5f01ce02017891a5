package smoke

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const nodetoolStatus = `Datacenter: dc1
===============
Status=Up/Down
|/ State=Normal/Leaving/Joining/Moving
-- Address       Load      Tokens Owns Host ID                              Rack
UN 10.96.12.1    1.07 MB   256    ?    1ad1c7ee-6a27-4f80-a0c2-0d4c0bbd2f6c a
UN 10.96.12.2    ?         256    ?    2ad1c7ee-6a27-4f80-a0c2-0d4c0bbd2f6c b
DN 10.96.12.3    980.1 KB  256    ?    3ad1c7ee-6a27-4f80-a0c2-0d4c0bbd2f6c c

Note: Non-system keyspaces don't have the same replication settings, effective ownership information is meaningless
`

func TestNodetoolStatus(t *testing.T) {
	nodes, err := parseNodetoolStatus(nodetoolStatus)
	if err != nil || len(nodes) != 3 || nodes[0] != (scyllaNode{"UN", "10.96.12.1", "a"}) || nodes[1].Rack != "b" || nodes[2].State != "DN" {
		t.Errorf("%v %v", nodes, err)
	}
	for name, out := range map[string]string{
		"nothing":        "",
		"refused":        "nodetool: Scylla API server HTTP GET to URL '/storage_service' failed: connection refused\n",
		"header alone":   "Datacenter: dc1\n-- Address Load Tokens Owns Host ID Rack\n",
		"cut line":       "-- Address Load Tokens Owns Host ID Rack\nUN 10.0.0.1 1 KB\n",
		"another column": "-- Address Load Tokens Owns Host ID Rack Zone\nUN 10.0.0.1 1 KB 256 ? x a z\n",
		"no table":       "UN 10.0.0.1 1 KB 256 ? x a\n",
	} {
		if nodes, err := parseNodetoolStatus(out); err == nil {
			t.Errorf("%s: %v", name, nodes)
		}
	}
}

func FuzzNodetoolStatus(f *testing.F) {
	f.Add(nodetoolStatus)
	f.Fuzz(func(t *testing.T, out string) {
		nodes, err := parseNodetoolStatus(out)
		if (err == nil) != (len(nodes) > 0) {
			t.Errorf("%v %v", nodes, err)
		}
	})
}

const fdbStatusJSON = `WARNING: Long delay (Ctrl-C to interrupt)
{
  "client": {"database_status": {"available": true, "healthy": true}},
  "cluster": {
    "full_replication": true,
    "data": {"state": {"name": "healthy", "healthy": true}},
    "recovery_state": {"name": "fully_recovered"},
    "processes": {
      "1": {"locality": {"zoneid": "a"}, "roles": [{"role": "storage"}]},
      "2": {"locality": {"zoneid": "b"}, "roles": [{"role": "storage"}, {"role": "coordinator"}]},
      "3": {"locality": {"zoneid": "c"}, "roles": [{"role": "storage"}]},
      "4": {"locality": {"zoneid": "d"}, "roles": [{"role": "log"}]}
    }
  }
}
`

func TestFDBStatus(t *testing.T) {
	status, err := parseFDBStatus(fdbStatusJSON)
	if err != nil || status.sound() != nil || len(status.zones()) != 3 {
		t.Errorf("%+v %v %v", status, err, status.sound())
	}
	for _, out := range []string{"", "Unable to communicate with the cluster to get status.\n", `{"client": `, `{"client": 3}`} {
		if _, err := parseFDBStatus(out); err == nil {
			t.Errorf("%q was read", out)
		}
	}
	for _, change := range [][3]string{
		{`"available": true`, `"available": false`, "not available"},
		{`fully_recovered`, `accepting_commits`, "recovers: accepting_commits"},
		{`"available": true, "healthy": true`, `"available": true, "healthy": false`, "not healthy"},
		{`"name": "healthy", "healthy": true`, `"name": "missing_data", "healthy": false`, "missing_data"},
		{`"full_replication": true`, `"full_replication": false`, "lacks copies"},
		{`"zoneid": "c"`, `"zoneid": "b"`, "in 2 zones"},
		{`{"zoneid": "c"}`, `{"zoneid": "c"}, "excluded": true`, "in 2 zones"},
		{`"client"`, `"Client_"`, "not available"}, // what it does not say is not so
	} {
		text := strings.Replace(fdbStatusJSON, change[0], change[1], 1)
		status, err := parseFDBStatus(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := status.sound(); err == nil || !strings.Contains(err.Error(), change[2]) {
			t.Errorf("%s: %v, want %q", change[1], err, change[2])
		}
	}
}

func FuzzFDBStatus(f *testing.F) {
	f.Add(fdbStatusJSON)
	f.Fuzz(func(t *testing.T, out string) {
		status, err := parseFDBStatus(out)
		if err == nil {
			_ = status.sound()
		}
	})
}

// The script that hands CQL to cqlsh keeps the password out of its arguments and its environment,
// and leaves no file.
func TestCQLScript(t *testing.T) {
	dir := t.TempDir()
	tool := "#!/bin/bash\nset -e\n[ \"$1\" = --cqlshrc ]\ncp \"$2\" \"$SEEN/rc\"; cat >\"$SEEN/cql\"; echo \"$2\" >\"$SEEN/name\"; echo \"$*\" >\"$SEEN/args\"; env >\"$SEEN/env\"; exit \"$CODE\"\n"
	if err := os.WriteFile(filepath.Join(dir, "cqlsh"), []byte(tool), 0o755); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for _, code := range []string{"0", "2"} {
		cmd := exec.Command("bash", "-c", cqlScript)
		cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "SEEN=" + dir, "CODE=" + code, "TMPDIR=" + dir}
		cmd.Stdin = strings.NewReader("[authentication]\npassword = s3cret\n--\nSELECT 1;\n-- a comment\nSELECT 2;\n")
		out, err := cmd.CombinedOutput()
		if (err == nil) != (code == "0") {
			t.Fatalf("exit status %s: %v %s", code, err, out)
		}
		if read("rc") != "[authentication]\npassword = s3cret\n" || read("cql") != "SELECT 1;\n-- a comment\nSELECT 2;\n" {
			t.Errorf("cqlsh was given %q and %q", read("rc"), read("cql"))
		}
		if strings.Contains(read("args")+read("env"), "s3cret") {
			t.Error("the password can be read beside the file")
		}
		if _, err := os.Stat(strings.TrimSpace(read("name"))); !os.IsNotExist(err) {
			t.Errorf("the file with the password is still there: %v", err)
		}
	}
}
