// Command cilium-setup is what Cilium's chart runs in the image of its agents beside the agent: the
// three scripts of upstream's image, as far as they do something here, without a shell, and the two
// programs of the system that agents call. The name that it is called by says which.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/orrery-dev/orrery/internal/hosttraffic"
)

func main() {
	if err := run(filepath.Base(os.Args[0])); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[0], err)
		os.Exit(1)
	}
}

func run(as string) error {
	switch as {
	case "install-plugin.sh":
		return install("/cilium-cni", "/host/opt/cni/bin/cilium-cni")
	case "init-container.sh":
		return mark()
	case "cni-uninstall.sh": // pods outlive the agent, and need the plugin when they end
		return nil
	case "iptables": // the agent insists on it; the one rule of use is mark's
		return nil
	case "ip": // by which the agent lays the routes of its health endpoint
		return syscall.Exec("/opt/busybox/bin/busybox", append([]string{"ip"}, os.Args[1:]...), os.Environ())
	default:
		return errors.New("call it by the name of one of the scripts of Cilium's image")
	}
}

// install copies a program under another name first, so that nobody runs half of it.
func install(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return errors.Join(err, out.Close())
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Rename(to+".new", to)
}

// mark lays the rule for the node's own packets, with Debian's nft and the libraries beside it.
func mark() error {
	loaders, err := filepath.Glob("/opt/nft/lib/ld-linux*.so.*")
	if err != nil || len(loaders) != 1 {
		return fmt.Errorf("the image has no nft that runs: want one loader in /opt/nft/lib, found %q", loaders)
	}
	cmd := exec.Command(loaders[0], "--library-path", "/opt/nft/lib", "/opt/nft/bin/nft", "-f", "-")
	cmd.Stdin = strings.NewReader(hosttraffic.Rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mark the node's own packets with nft: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
