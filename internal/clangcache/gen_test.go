package clangcache

import (
	"flag"
	"os"
	"testing"
)

var llvm = flag.String("llvm", "", "folder of an unpacked LLVM: make testdata/node.o again with it")

// TestFixture makes the object that the other tests have their fake clang write.
func TestFixture(t *testing.T) {
	if *llvm == "" {
		t.Skip("give -args -llvm DIR to make testdata/node.o again")
	}
	t.Setenv("TMPDIR", t.TempDir())
	in := mustScan(t, request{source: "testdata/node.c", includes: []string{"testdata"}})
	header, _ := generalise(in)
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/node_config.h", header, 0o600); err != nil {
		t.Fatal(err)
	}
	tool, err := find(*llvm)
	if err != nil {
		t.Fatal(err)
	}
	object, err := tool.run([]string{"-O2", "--target=bpf", "-nostdinc", "-I" + dir, "-c", "testdata/node.c", "-o", "-"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("testdata/node.o", object, 0o644); err != nil {
		t.Fatal(err)
	}
}
