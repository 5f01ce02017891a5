package clangcache

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Where things are in a node, and the variables that say otherwise.
const (
	toolchainDir = "/opt/llvm" // $ORRERY_LLVM
	cacheDir     = "/var/cache/clang"
	toolchainEnv = "ORRERY_LLVM"
	cacheEnv     = "ORRERY_CLANG_CACHE" // "off" has clang compile everything
)

// Main is clang: args are its arguments, without the program's name. It returns only with an
// error, when there is no clang, or with what the process shall exit with.
func Main(args []string) (status int, err error) {
	// Clang dies with the thread that started it; see run.
	runtime.LockOSThread()
	dir := or(os.Getenv(cacheEnv), cacheDir)
	tool, err := find(or(os.Getenv(toolchainEnv), toolchainDir))
	if err != nil {
		return 1, err
	}
	c := cache{dir}
	if dir == "off" || !folder(dir) {
		return 1, tool.become(args)
	}
	began := time.Now()
	out, how, err := c.answer(tool, args)
	if err != nil {
		c.note("clang %dms %s: %v", time.Since(began).Milliseconds(), last(args), err)
		return 1, tool.become(args)
	}
	if _, err := os.Stdout.Write(out); err != nil {
		return 1, err
	}
	c.note("%s %dms %s", how, time.Since(began).Milliseconds(), last(args))
	return 0, nil
}

// answer is what clang would write to standard output, and whether that was known ("hit"), made
// by us ("miss") or by somebody else meanwhile ("wait"). After any error clang has to be asked:
// nothing was written.
func (c cache) answer(tool toolchain, args []string) (out []byte, how string, err error) {
	compiler, err := tool.identity()
	if err != nil {
		return nil, "", err
	}
	var ask []string // what clang is called with
	var name string
	var values []value
	if len(args) == 1 && args[0] == "--version" {
		// Asked before every compilation, and a tenth of one.
		ask, name = args, key(compiler, request{flags: args}, &input{})
	} else {
		r, err := parse(args)
		if err != nil {
			return nil, "", err
		}
		in, err := scan(r)
		if err != nil {
			return nil, "", err
		}
		var header []byte
		if in.node != "" {
			header, values = generalise(in)
			in.files[in.node] = header
		}
		name = key(compiler, r, in)
		node, err := os.MkdirTemp("", "clang-")
		if err != nil {
			return nil, "", err
		}
		defer os.RemoveAll(node)
		ask = prefixMaps(r)
		if values != nil {
			if err := os.WriteFile(filepath.Join(node, nodeConfig), header, 0o600); err != nil {
				return nil, "", err
			}
			ask = append(ask, "-ffile-prefix-map="+node+"="+filepath.Dir(portable(in.node)), "-I"+node)
		}
		ask = append(ask, args...)
	}
	object, how, err := c.object(name, func() ([]byte, error) { return tool.run(ask) })
	if err != nil {
		return nil, how, err
	}
	return object, how, fill(object, values)
}

// object is the entry of the given name, which is made if it is not there. Not being able to
// keep it is no error.
func (c cache) object(name string, compile func() ([]byte, error)) (object []byte, how string, err error) {
	if object, err := c.get(name); err == nil {
		return object, "hit", nil
	}
	how = "miss"
	if unlock, err := c.lock(name); err == nil {
		defer unlock()
		if object, err := c.get(name); err == nil {
			return object, "wait", nil
		}
	}
	if object, err = compile(); err != nil {
		return nil, how, err
	}
	if err := c.put(name, object); err != nil {
		c.note("not kept: %v", err)
	}
	return bytes.Clone(object), how, nil
}

// toolchain is a clang.
type toolchain struct {
	argv []string // how it is called
	dir  string   // of the node's own; empty for one of the host's
}

// find is the node's clang in dir or, where there is none, the host's.
func find(dir string) (toolchain, error) {
	clang := filepath.Join(dir, "bin", "clang")
	if _, err := os.Stat(clang); err == nil {
		// With the libraries that came with it, down to the C library and its loader.
		if loaders, _ := filepath.Glob(filepath.Join(dir, "lib", "ld-linux*.so.*")); len(loaders) == 1 {
			return toolchain{argv: []string{loaders[0], "--library-path", filepath.Join(dir, "lib"), clang}, dir: dir}, nil
		}
		return toolchain{argv: []string{clang}, dir: dir}, nil
	}
	own, _ := os.Executable()
	if self, err := filepath.EvalSymlinks(own); err == nil {
		own = self
	}
	for _, p := range filepath.SplitList(os.Getenv("PATH")) {
		names, _ := filepath.Glob(filepath.Join(p, "clang-[0-9][0-9]"))
		for i := len(names) - 1; i >= -1; i-- { // the plain name, else the newest
			name := filepath.Join(p, "clang")
			if i < len(names)-1 {
				name = names[i+1]
			}
			real, err := filepath.EvalSymlinks(name)
			if err != nil || real == own {
				continue
			}
			if info, err := os.Stat(real); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return toolchain{argv: []string{real}}, nil
			}
		}
	}
	return toolchain{}, fmt.Errorf("clang: there is none in %s, and none on PATH: 'orrery doctor' says what is missing", dir)
}

// identity tells one compiler from another: the digest of the archive that it came in, or, of
// one of the host's, its file and what it calls itself.
func (t toolchain) identity() (string, error) {
	if t.dir != "" {
		if sum, err := os.ReadFile(filepath.Join(t.dir, ".sha256")); err == nil && len(sum) == 64 {
			return string(sum), nil
		}
	}
	info, err := os.Stat(t.argv[len(t.argv)-1])
	if err != nil {
		return "", err
	}
	version, err := t.run([]string{"--version"})
	return fmt.Sprintf("%s %d %s %s", t.argv[len(t.argv)-1], info.Size(), info.ModTime().UTC().Format(time.RFC3339Nano), version), err
}

// run calls clang and returns its standard output. What it warns of would be lost for who is
// answered from the cache, so a warning is an error too.
func (t toolchain) run(args []string) ([]byte, error) {
	var out, said bytes.Buffer
	cmd := exec.Command(t.argv[0], append(t.argv[1:len(t.argv):len(t.argv)], args...)...)
	cmd.Stdout, cmd.Stderr = &out, &said
	// The agent kills a compilation that it no longer wants: clang must not outlive us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w: %.400s", err, said.Bytes())
	}
	if said.Len() > 0 {
		return nil, fmt.Errorf("clang said: %.400s", said.Bytes())
	}
	return out.Bytes(), nil
}

// become replaces this process by clang.
func (t toolchain) become(args []string) error {
	argv := append(t.argv[:len(t.argv):len(t.argv)], args...)
	err := syscall.Exec(argv[0], argv, os.Environ())
	return fmt.Errorf("run %s: %w", argv[0], err)
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func folder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// last names a call in the log: the source, and of its path the end.
func last(args []string) string {
	for _, a := range args {
		if strings.HasSuffix(a, ".c") {
			return filepath.Base(a)
		}
	}
	return strings.Join(args[:min(len(args), 1)], " ")
}
