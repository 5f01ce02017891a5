package supply

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/orrery-dev/orrery/internal/proc"
)

// otherUser is a user and group that no system gives to anybody: without a name, a home and
// a right to anything.
const otherUser = 61873

// otherBuild is a place where something is built that was built before, with as much as
// possible different: folder, caches, user, umask, time zone, locale.
type otherBuild struct {
	dir           string
	program       string // this program, where the other user may run it
	user          uint32 // 0: the same one
	env           []string
	modules       *http.Server // serves the module cache; nil when it is shared
	circumstances []string
}

// newOtherBuild copies the repository and this program. The caller removes it.
func newOtherBuild(ctx context.Context, s *Supply) (e *otherBuild, err error) {
	settings, err := s.builder.ModuleSettings(ctx)
	if err != nil {
		return nil, err
	}
	e = &otherBuild{}
	parent := os.TempDir()
	why := "only root can build as another user"
	if os.Geteuid() == 0 {
		// Everything on the way has to be open to everybody.
		candidates := []string{parent, "/var/tmp", "/tmp"}
		i := slices.IndexFunc(candidates, open)
		switch {
		case !open(settings["GOROOT"]):
			why = "others may not read Go in " + settings["GOROOT"]
		case i < 0:
			why = fmt.Sprintf("others may not go into any of %v", candidates)
		default:
			parent, e.user = candidates[i], otherUser
		}
	}
	// Not beside the catalogue, and with a path of another length.
	if e.dir, err = os.MkdirTemp(parent, "orrery-reproduce-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			e.remove()
		}
	}()
	if err := copySource(ctx, s.Catalog.Root, e.root()); err != nil {
		return nil, fmt.Errorf("copy the repository: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	// testscript's programs are told apart by their names, too.
	e.program = filepath.Join(e.dir, "bin", "orrery")
	if err := copyFile(self, e.program, 0o755); err != nil {
		return nil, fmt.Errorf("copy this program: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(e.dir, "home"), 0o755); err != nil {
		return nil, err
	}
	e.environment(settings)
	if e.user == 0 {
		e.circumstances = append(e.circumstances, "the same user and module cache: "+why)
		return e, nil
	}
	if err := e.serveModules(settings); err != nil {
		return nil, err
	}
	e.circumstances = append(e.circumstances, fmt.Sprintf("user and group %d, an empty module cache", otherUser))
	return e, filepath.WalkDir(e.dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, otherUser, otherUser))
	})
}

func (e *otherBuild) root() string { return filepath.Join(e.dir, "copy", "of", "the", "repository") }

func (e *otherBuild) environment(settings map[string]string) {
	e.env = []string{
		"PATH=" + filepath.Join(settings["GOROOT"], "bin") + ":" + os.Getenv("PATH"), "HOME=" + filepath.Join(e.dir, "home"),
		"TMPDIR=" + filepath.Join(e.dir, "home"), "TZ=Asia/Kathmandu", "LANG=tr_TR.UTF-8", "LC_COLLATE=tr_TR.UTF-8",
	}
	for _, name := range []string{"HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if v, ok := os.LookupEnv(name); ok {
			e.env = append(e.env, name+"="+v)
		}
	}
	// Go reads the upper case first (golang.org/x/net/http/httpproxy).
	direct := cmp.Or(os.Getenv("NO_PROXY"), os.Getenv("no_proxy"))
	e.env = append(e.env, "NO_PROXY="+strings.TrimPrefix(direct+",127.0.0.1", ","))
	for name, value := range settings {
		if name != "GOROOT" {
			e.env = append(e.env, name+"="+value)
		}
	}
	e.circumstances = []string{"folder " + e.root(), "an empty build cache", "umask 077, time zone Asia/Kathmandu, locale tr_TR.UTF-8"}
}

// serveModules has the other user take modules out of this one's module cache by the module
// proxy protocol, which that cache is laid out for; each is then checked against go.sum
// again. What is not there comes from where modules usually come from.
func (e *otherBuild) serveModules(settings map[string]string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("serve the module cache: %w", err)
	}
	e.modules = &http.Server{Handler: http.FileServer(http.Dir(filepath.Join(settings["GOMODCACHE"], "cache", "download")))} //nolint:gosec // G112: only this machine, only meanwhile
	go func() { _ = e.modules.Serve(l) }()
	e.env = append(e.env, "GOMODCACHE="+filepath.Join(e.dir, "modules"), "GOPATH="+filepath.Join(e.dir, "home"),
		"GOPROXY="+strings.TrimSuffix("http://"+l.Addr().String()+","+settings["GOPROXY"], ","))
	return nil
}

// build runs the second build.
func (e *otherBuild) build(ctx context.Context, name string, program bool, log io.Writer) (r Rebuilt, err error) {
	args := []string{"images", "rebuild", name, "--catalog", e.root(), "--cache", filepath.Join(e.dir, "cache")}
	if program {
		args = append(args, "--program")
	}
	var out bytes.Buffer
	cmd := &proc.Cmd{Path: e.program, Args: args, Dir: e.root(), Env: e.env, User: e.user, Group: e.user, Stdout: &out, Stderr: log}
	old := syscall.Umask(0o077) // of the process and the compilers that it starts
	err = proc.Run(ctx, cmd)
	syscall.Umask(old)
	if err != nil {
		if failed, ok := errors.AsType[*proc.Error](err); ok {
			failed.Stderr = "" // it was shown as it came
		}
		return r, fmt.Errorf("the second build of %s: %w", name, err)
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return r, fmt.Errorf("the second build of %s: %w", name, err)
	}
	return r, nil
}

func (e *otherBuild) remove() {
	if e.modules != nil {
		_ = e.modules.Close()
	}
	_ = os.RemoveAll(e.dir)
}

// open reports whether everybody may go into a folder.
func open(dir string) bool {
	dir, err := filepath.EvalSymlinks(dir)
	for ; err == nil; dir = filepath.Dir(dir) {
		info, statErr := os.Stat(dir)
		if statErr != nil || info.Mode()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
	return false
}

// copySource copies a repository without what is hidden (version control, editors) and
// without what is not a file or folder. Every file gets a new time.
func copySource(ctx context.Context, from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case d.IsDir() && rel != "." && strings.HasPrefix(d.Name(), "."):
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(target, 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		return copyFile(path, target, 0o644)
	})
}

// copyFile makes a new file, and the folder for it.
func copyFile(from, to string, mode fs.FileMode) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		return errors.Join(err, dst.Close())
	}
	return dst.Close()
}
