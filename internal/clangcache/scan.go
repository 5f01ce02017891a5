package clangcache

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// nodeConfig is the header that the agent writes for the node.
const nodeConfig = "node_config.h"

// input is everything that clang would read for a request.
type input struct {
	files  map[string][]byte // by the path that clang would open
	order  []string          // paths in the order in which they were found
	absent []string          // paths that clang would have preferred, had they been there
	node   string            // path of node_config.h; empty when it is not included
	// conditions are all lines that the preprocessor calculates: #if and #elif.
	conditions [][]byte
}

var named = regexp.MustCompile(`^[ \t]*(?:"([^"\n]+)"|<([^>\n]+)>)`)

// doubtful has clang look at files, or at the clock, in ways that are not followed here; or is
// another way of writing #.
var doubtful = [][]byte{
	[]byte("__has_include"), []byte("__has_embed"), []byte(".incbin"), []byte("__DATE__"), []byte("__TIME"),
	[]byte("#pragma clang module"), []byte("%:"), []byte("??="), []byte("\\\r\n"),
}

// maxInput bounds what is read for a request, in bytes. Cilium's source is 2 MB.
const maxInput = 64 << 20

// scan follows every #include from the source, whatever #if it stands in: a file too many costs
// a compilation that was not needed, one too few would be a wrong object. Where clang would
// look first and finds nothing counts as well.
func scan(r request) (*input, error) {
	in := &input{files: map[string][]byte{}}
	total := 0
	todo := []string{r.source}
	for len(todo) > 0 {
		path := todo[0]
		todo = todo[1:]
		if _, seen := in.files[path]; seen {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if total += len(text); total > maxInput {
			return nil, fmt.Errorf("%w: too much source", errForeign)
		}
		if path == in.node {
			// Comments have the node's addresses, and no say.
			text = withoutComments(text)
		}
		for _, d := range doubtful {
			if bytes.Contains(text, d) {
				return nil, fmt.Errorf("%w: %s has %s", errForeign, path, d)
			}
		}
		in.files[path] = text
		in.order = append(in.order, path)
		included, err := in.directives(path, text)
		if err != nil {
			return nil, err
		}
		for _, name := range included {
			found, err := in.find(r, filepath.Dir(path), string(name[1]), string(name[2]))
			if err != nil {
				return nil, err
			}
			if found != "" {
				todo = append(todo, found)
			}
		}
	}
	return in, nil
}

// directives are the names that text includes, as named matches them. Every # is looked at,
// also those in comments and literals: what looks like a directive there costs a file too many.
func (in *input) directives(path string, text []byte) (included [][][]byte, err error) {
	for at := 0; ; {
		i := bytes.IndexByte(text[at:], '#')
		if i < 0 {
			return included, nil
		}
		at += i + 1
		rest := bytes.TrimLeft(text[at:], " \t")
		n := 0
		for n < len(rest) && (rest[n] >= 'a' && rest[n] <= 'z' || rest[n] == '_') {
			n++
		}
		word := string(rest[:n])
		rest = rest[n:]
		// A directive may be cut by a comment or by the end of a line that goes on.
		if len(rest) > 0 && (rest[0] == '\\' || n == 0 && bytes.HasPrefix(rest, []byte("/*"))) && !isPaste(text, at) {
			return nil, fmt.Errorf("%w: %s: a directive in two parts", errForeign, path)
		}
		switch word {
		case "if", "elif":
			in.conditions = append(in.conditions, logicalLine(rest))
		case "include":
			name := named.FindSubmatch(rest)
			if name == nil {
				return nil, fmt.Errorf("%w: %s: an #include of no name", errForeign, path)
			}
			included = append(included, name)
		case "include_next", "import", "embed":
			return nil, fmt.Errorf("%w: %s: #%s", errForeign, path, word)
		}
	}
}

// isPaste reports whether the # before at is part of ##.
func isPaste(text []byte, at int) bool {
	return at >= 2 && text[at-2] == '#' || at < len(text) && text[at] == '#'
}

// logicalLine is text up to the end of a line that does not go on.
func logicalLine(text []byte) []byte {
	for at := 0; ; {
		i := bytes.IndexByte(text[at:], '\n')
		if i < 0 {
			return text
		}
		at += i + 1
		if at < 2 || text[at-2] != '\\' {
			return text[:at]
		}
	}
}

// find is the file that an #include means: "quoted" beside the file that it stands in, then,
// like <angled>, in the folders of -I.
func (in *input) find(r request, beside, quoted, angled string) (string, error) {
	name, dirs := angled, r.includes
	if quoted != "" {
		name, dirs = quoted, append([]string{beside}, r.includes...)
	}
	if filepath.IsAbs(name) {
		dirs = []string{"/"}
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			in.absent = append(in.absent, path)
			continue
		}
		if err != nil || !info.Mode().IsRegular() {
			return "", fmt.Errorf("%w: %s is no file", errForeign, path)
		}
		if filepath.Base(name) == nodeConfig {
			if in.node != "" && in.node != path {
				return "", fmt.Errorf("%w: two files are called %s", errForeign, nodeConfig)
			}
			in.node = path
		}
		return path, nil
	}
	return "", nil // in a branch that is not compiled, or clang will say so
}

// withoutComments blanks comments and keeps lines. Literals are not looked at: a header with a
// quote in it is left as it is.
func withoutComments(text []byte) []byte {
	if bytes.ContainsAny(text, `'`) || bytes.Contains(text, []byte(`??/`)) {
		return text
	}
	var out bytes.Buffer
	for len(text) > 0 {
		block, line := bytes.Index(text, []byte("/*")), bytes.Index(text, []byte("//"))
		quote := bytes.IndexByte(text, '"')
		switch {
		case quote >= 0 && (block < 0 || quote < block) && (line < 0 || quote < line):
			end := bytes.IndexByte(text[quote+1:], '"')
			if end < 0 || bytes.IndexByte(text[quote+1:quote+1+end], '\\') >= 0 {
				out.Write(text)
				return out.Bytes()
			}
			out.Write(text[:quote+end+2])
			text = text[quote+end+2:]
		case block >= 0 && (line < 0 || block < line):
			end := bytes.Index(text[block+2:], []byte("*/"))
			if end < 0 {
				out.Write(text)
				return out.Bytes()
			}
			out.Write(text[:block])
			out.WriteByte(' ')
			out.Write(bytes.Repeat([]byte("\n"), bytes.Count(text[block:block+end+4], []byte("\n"))))
			text = text[block+end+4:]
		case line >= 0:
			end := bytes.IndexByte(text[line:], '\n')
			if end < 0 {
				end = len(text) - line
			}
			out.Write(text[:line])
			if bytes.HasSuffix(text[line:line+end], []byte(`\`)) {
				out.Write(text[line:]) // the comment goes on in the next line
				return out.Bytes()
			}
			text = text[line+end:]
		default:
			out.Write(text)
			text = nil
		}
	}
	return out.Bytes()
}

// keyFormat is part of every key. Raise it when what is made of the same input changes.
const keyFormat = "orrery-clang-1"

// key names the object that r makes of in, with the compiler given.
func key(compiler string, r request, in *input) string {
	h := sha256.New()
	add := func(label string, values ...string) {
		fmt.Fprintf(h, "%s %d\n", label, len(values))
		for _, v := range values {
			fmt.Fprintf(h, "%d ", len(v))
			_, _ = io.WriteString(h, v)
		}
	}
	add("format", keyFormat)
	add("compiler", compiler)
	add("flags", r.flags...)
	add("source", portable(r.source))
	for _, dir := range r.includes {
		add("include", portable(dir))
	}
	for _, path := range in.order {
		add("file", portable(path), string(in.files[path]))
	}
	for _, path := range in.absent {
		add("absent", portable(path))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// hashed are parts of paths that the agent names after the content of a header, which every
// node has its own of.
var hashed = regexp.MustCompile(`/[0-9a-f]{64}(/|$)`)

// portable is a path as all nodes have it.
func portable(path string) string { return hashed.ReplaceAllString(path, "/template$1") }

// prefixMaps has clang write portable paths into debug data.
func prefixMaps(r request) (flags []string) {
	for _, dir := range r.includes {
		if p := portable(dir); p != dir && !strings.ContainsRune(dir, '=') {
			flags = append(flags, "-ffile-prefix-map="+dir+"="+p)
		}
	}
	return flags
}
