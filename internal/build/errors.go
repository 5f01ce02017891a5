package build

import (
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/proc"
)

// GoError says that the machine's Go cannot build a module.
type GoError struct {
	Want string // least version, such as "1.26.6"
	Have string // "go1.25.1", empty when there is none
}

func (e *GoError) Error() string {
	if e.Have == "" {
		return fmt.Sprintf("the go command is not on PATH: install Go %s or newer (https://go.dev/dl) and put it on PATH", e.Want)
	}
	return fmt.Sprintf("%s is too old: Go %s or newer is needed (https://go.dev/dl)", e.Have, e.Want)
}

// ModuleError says that a module could not be downloaded.
type ModuleError struct {
	Module string // PATH@VERSION, or where it is imported
	Proxy  string // GOPROXY
	Reason string // as Go says it
}

func (e *ModuleError) Error() string {
	return fmt.Sprintf("module %s cannot be downloaded from GOPROXY=%s: %s\n"+
		"set GOPROXY to your mirror (go env -w GOPROXY=https://…), fill the module cache where it can be reached"+
		" (go mod download), or import a bundle",
		e.Module, e.Proxy, e.Reason)
}

// HeaderError says that a C compiler, header or library is missing.
type HeaderError struct {
	Packages []string // Debian's names
	Reason   string   // as the compiler says it
}

func (e *HeaderError) Error() string {
	return fmt.Sprintf("something that C code needs is missing: %s\ninstall it with: apt-get install %s", e.Reason, strings.Join(e.Packages, " "))
}

var (
	moduleLine = regexp.MustCompile(`([a-zA-Z0-9][^\s:@]*\.[^\s:@]*@v[^\s:]+): (.+)`)
	// What Go says, after a module's name, when the proxy or the way to it is the trouble.
	proxyTrouble = regexp.MustCompile(`reading (https?|file):|Get "|dial tcp|server response:|40[34] |410 Gone|5\d\d [A-Z]|no such host|` +
		`module lookup disabled by GOPROXY|not found: module|verifying module|no such file or directory`)
	// With GOPROXY=off Go names the import instead of the module.
	lookupOff  = regexp.MustCompile(`(?m)^(\S+:\d+:\d+): (module lookup disabled by GOPROXY=off)`)
	headerLine = regexp.MustCompile(`(?m)^.*(fatal error: \S+: No such file or directory|cannot find -l\S+|was not found in the pkg-config search path|` +
		`Package '?\S+'?,? (required by .*)?not found|C compiler "\S+" not found|exec: "(gcc|pkg-config|pkgconf)": executable file not found).*$`)
	oldGo   = regexp.MustCompile(`requires go >= (\S+) \(running go (\S+?)[;)]`)
	noSpace = regexp.MustCompile(`(?i)no space left on device|disk quota exceeded`)
)

// explain turns what Go said into what a person has to do.
func (b *Builder) explain(bin catalog.Binary, src source, m *meter, err error) error {
	var failed *proc.Error
	var exit *exec.ExitError
	if !errors.As(err, &failed) || !errors.As(failed.Err, &exit) { // not started, or cancelled
		return err
	}
	said := failed.Stderr
	if noSpace.MatchString(said) {
		free, _ := freeSpace(b.opts.CacheDir)
		return &SpaceError{Dir: b.opts.CacheDir, Need: spaceFor(bin, m.stalePart()), Free: free}
	}
	if f := oldGo.FindStringSubmatch(said); f != nil {
		return &GoError{Want: f[1], Have: "go" + f[2]}
	}
	if bin.CGO {
		if line := headerLine.FindString(said); line != "" {
			return &HeaderError{Packages: append([]string{"gcc", "libc6-dev"}, bin.CHeaders...), Reason: strings.TrimSpace(line)}
		}
	}
	for line := range strings.Lines(said) {
		if f := moduleLine.FindStringSubmatch(line); f != nil && proxyTrouble.MatchString(f[2]) {
			return &ModuleError{Module: f[1], Proxy: b.go_.env["GOPROXY"], Reason: strings.TrimSpace(f[2])}
		}
	}
	if f := lookupOff.FindStringSubmatch(said); f != nil {
		return &ModuleError{Module: "imported at " + f[1], Proxy: b.go_.env["GOPROXY"], Reason: f[2]}
	}
	if strings.Contains(said, "signal: killed") {
		return fmt.Errorf("the compiler was killed, most likely for lack of memory (about %d MiB are needed; %d MiB are free): %w",
			max(bin.MemoryMiB, defaultMemoryMiB), availableMemoryMiB(), err)
	}
	if strings.Contains(said, "missing go.sum entry") || strings.Contains(said, "updates to go.mod needed") {
		command := "go mod tidy"
		if src.absent != "" { // what go mod tidy cannot do in a folder without Go files
			command = "go list -mod=mod -deps " + bin.Package
		}
		return fmt.Errorf("go.mod and go.sum in %s do not pin everything; run `%s` there and commit the result: %w", src.dir, command, err)
	}
	return err
}
