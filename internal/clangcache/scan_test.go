package clangcache

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// agentArgs is how the agent calls clang.
func agentArgs(dirs []string, source string) []string {
	var args []string
	for _, d := range dirs {
		args = append(args, "-I"+d)
	}
	return append(args, "-g", "-O2", "--target=bpf", "-std=gnu99", "-nostdinc", "-ftrap-function=__undefined_trap",
		"-Wall", "-Wextra", "-Werror", "-Wno-address-of-packed-member", "-mcpu=v3", "-c", source, "-o", "-")
}

func TestParse(t *testing.T) {
	r, err := parse(agentArgs([]string{"/run/cilium/state/globals", "/var/lib/cilium/bpf/"}, "/var/lib/cilium/bpf/bpf_lxc.c"))
	if err != nil || r.source != "/var/lib/cilium/bpf/bpf_lxc.c" || !slices.Equal(r.includes, []string{"/run/cilium/state/globals", "/var/lib/cilium/bpf"}) {
		t.Errorf("the agent's call is read as %+v, %v", r, err)
	}
	good := agentArgs([]string{"/i"}, "a.c")
	without := func(arg string) []string {
		return slices.DeleteFunc(slices.Clone(good), func(a string) bool { return a == arg })
	}
	for name, args := range map[string][]string{
		"nothing": nil, "two sources": append(slices.Clone(good), "b.c"), "standard input": {"-nostdinc", "-c", "-", "-o", "-"},
		"system headers": without("-nostdinc"), "linking": without("-c"), "to a file": append(without("-"), "a.o"),
		"assembly": append(slices.Clone(good), "-S"), "preprocessor": append(slices.Clone(good), "-E"),
		"forced include": append(slices.Clone(good), "-include", "x.h"), "other includes": append(slices.Clone(good), "-isystem", "/usr"),
		"response file": append(slices.Clone(good), "@args"), "plugin": append(slices.Clone(good), "-fplugin=x.so"),
		"dependencies": append(slices.Clone(good), "-MD"), "macro with a path": append(slices.Clone(good), `-DX="y.h"`),
	} {
		if r, err := parse(args); !errors.Is(err, errForeign) {
			t.Errorf("%s: %+v, %v: must be left to clang", name, r, err)
		}
	}
}

// tree writes files, by path below a new folder.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func mustScan(t *testing.T, r request) *input {
	t.Helper()
	in, err := scan(r)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func TestScan(t *testing.T) {
	dir := tree(t, map[string]string{
		"lib/a.c": "#include \"b.h\"\n#  include <deep/c.h>\n#if 0\n#include <never.h>\n#include \"dead.h\"\n#endif\n",
		"lib/b.h": "#pragma once\n#include \"a.h\"\n", "lib/a.h": "#include \"b.h\"\n", "lib/dead.h": "",
		"first/deep/c.h": "#define HASH(a, b) a ## b, #a \\\n\t#b\n", "second/deep/c.h": "", "second/b.h": "",
	})
	in := mustScan(t, request{source: dir + "/lib/a.c", includes: []string{dir + "/first", dir + "/second"}})
	want := []string{"/lib/a.c", "/lib/b.h", "/first/deep/c.h", "/lib/dead.h", "/lib/a.h"}
	for i := range want {
		want[i] = dir + want[i]
	}
	if !slices.Equal(in.order, want) {
		t.Errorf("files: %v, want %v", in.order, want)
	}
	if absent := []string{dir + "/first/never.h", dir + "/second/never.h"}; !slices.Equal(in.absent, absent) {
		t.Errorf("absent: %v, want %v", in.absent, absent)
	}
}

func TestScanDoubts(t *testing.T) {
	for name, text := range map[string]string{
		"macro":        "#define H <b.h>\n#include H\n",
		"next":         "#include_next <b.h>\n",
		"asks":         "#if __has_include(<b.h>)\n#endif\n",
		"clock":        "char *at = __TIME__;\n",
		"comment":      "#/* x */include \"b.h\"\n",
		"cut name":     "#inc\\\nlude \"b.h\"\n",
		"other line":   "#include \\\n\"b.h\"\n",
		"digraph":      "%:include \"b.h\"\n",
		"trigraph":     "??=include \"b.h\"\n",
		"assembler":    "asm(\".incbin \\\"b.h\\\"\");\n",
		"embed":        "char x[] = {\n#embed \"b.h\"\n};\n",
		"folder":       "#include \"sub\"\n",
		"not a header": "#include \"b.h\n",
	} {
		dir := tree(t, map[string]string{"a.c": text, "b.h": "", "sub/x": ""})
		if in, err := scan(request{source: dir + "/a.c", includes: []string{dir}}); !errors.Is(err, errForeign) {
			t.Errorf("%s: %v, %v: must be left to clang", name, in, err)
		}
	}
	if _, err := scan(request{source: t.TempDir() + "/none.c"}); err == nil {
		t.Error("no source, and no error")
	}
}

// node lays out what the agent of one node compiles: its address in node_config.h, and a
// folder that is called like a digest.
func node(t *testing.T, ip, digest string) request {
	t.Helper()
	dir := tree(t, map[string]string{
		"globals/node_config.h":                "/* " + ip + " */\n#define IPV4_GATEWAY " + ip + "\n#define MTU 1500\n// " + ip + "\n",
		"templates/" + digest + "/ep_config.h": "#define HOST 1\n",
		"bpf/a.c":                              "#include <node_config.h>\n#include <ep_config.h>\n#include \"lib/x.h\"\n",
		"bpf/lib/x.h":                          "int x;\n",
	})
	// As in a node, where the folders are the same on all.
	t.Chdir(dir)
	return request{flags: []string{"-O2"}, source: "bpf/a.c", includes: []string{"globals", "/nowhere", "templates/" + digest, "bpf"}}
}

func keyOf(t *testing.T, r request) string {
	t.Helper()
	in := mustScan(t, r)
	if in.node != "" {
		in.files[in.node], _ = generalise(in)
	}
	return key("clang 19", r, in)
}

func TestKey(t *testing.T) {
	one, two := strings.Repeat("1a", 32), strings.Repeat("2b", 32)
	first := keyOf(t, node(t, "0x0a590001", one))
	if second := keyOf(t, node(t, "0x0a590002", two)); first != second {
		t.Error("two nodes compile the same thing, and have two keys")
	}
	for name, change := range map[string]func(r *request){
		"flag":          func(r *request) { r.flags = append(r.flags, "-g") },
		"include order": func(r *request) { slices.Reverse(r.includes) },
		"header":        func(*request) { write(t, "bpf/lib/x.h", "int y;\n") },
		"line of a comment in the node's header": func(*request) {
			write(t, "globals/node_config.h", "/*\n */\n#define IPV4_GATEWAY 1\n#define MTU 1500\n\n")
		},
		"other number of the node": func(*request) {
			write(t, "globals/node_config.h", "/* */\n#define IPV4_GATEWAY 1\n#define MTU 9000\n\n")
		},
		"shadowed": func(*request) { write(t, "globals/ep_config.h", "") },
	} {
		r := node(t, "0x0a590001", one)
		change(&r)
		if keyOf(t, r) == first {
			t.Errorf("%s: the key is the same", name)
		}
	}
	r := node(t, "0x0a590001", one)
	if in := mustScan(t, r); key("clang 20", r, in) == key("clang 19", r, in) {
		t.Error("two compilers have one key")
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWithoutComments(t *testing.T) {
	for text, want := range map[string]string{
		"a /* b */ c":          "a   c",
		"/* 1\n 2\n*/x":        " \n\nx",
		"a // b\nc":            "a \nc",
		"a // b":               "a ",
		`"/* no */" /* yes */`: `"/* no */"  `,
		`"// no" // yes`:       `"// no" `,
		"a /* open":            "a /* open",
		`"open /* x */`:        `"open /* x */`,
		`"\"" /* x */`:         `"\"" /* x */`,
		`'"' /* x */`:          `'"' /* x */`,
		"a // b \\\nc":         "a // b \\\nc",
	} {
		if got := string(withoutComments([]byte(text))); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

func FuzzDirectives(f *testing.F) {
	f.Add([]byte("#include <a>\n#if X \\\n Y\n/* */"))
	f.Add([]byte("# \\"))
	f.Fuzz(func(t *testing.T, text []byte) {
		in := &input{}
		_, _ = in.directives("x", text)
		if got := withoutComments(text); strings.Count(string(got), "\n") != strings.Count(string(text), "\n") {
			t.Errorf("%q has other lines than %q", got, text)
		}
	})
}
