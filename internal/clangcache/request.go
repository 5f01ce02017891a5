package clangcache

import (
	"errors"
	"path/filepath"
	"regexp"
	"strings"
)

// request is a call of clang that can be answered from the cache.
type request struct {
	flags    []string // all but includes, source and output
	includes []string // folders, in order
	source   string
}

// errForeign is wrapped by errors about calls that are clang's alone.
var errForeign = errors.New("not for the cache")

// plainFlags have no say but over the object, and name no files. Others than these may.
var plainFlags = regexp.MustCompile(`^(-O[0-3s]|-g|--target=bpf|-std=[a-z0-9]+|-nostdinc|-c|-mcpu=[a-z0-9]+|-ftrap-function=\w+|-W[a-z0-9-]+|-D\w+(=\w*)?)$`)

// parse understands how the agent calls clang: one source, the object to standard output, and
// no header of the system's.
func parse(args []string) (request, error) {
	var r request
	out, compile, nostdinc := "", false, false
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "-o" && i+1 < len(args) && out == "":
			i++
			out = args[i]
		case strings.HasPrefix(a, "-I") && len(a) > 2:
			r.includes = append(r.includes, filepath.Clean(a[2:]))
		case plainFlags.MatchString(a):
			compile = compile || a == "-c"
			nostdinc = nostdinc || a == "-nostdinc"
			r.flags = append(r.flags, a)
		case strings.HasSuffix(a, ".c") && !strings.HasPrefix(a, "-") && r.source == "":
			r.source = a
		default:
			return r, errForeign
		}
	}
	if out != "-" || !compile || !nostdinc || r.source == "" {
		return r, errForeign
	}
	return r, nil
}
