package native

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// hostBefore is how the host was before the first environment: what belongs to all of them, and
// goes back to what it was with the last. It is an extended attribute of their common control
// group, so that it is there for exactly as long.
type hostBefore struct {
	Controllers []string `json:"controllers"` // that the root of the unified hierarchy gave to its children
	AppArmor    bool     `json:"appArmor"`    // the profile of containers was loaded
	Modules     []string `json:"modules"`     // of moduleKinds, that were loaded; null when nobody looked
}

const (
	beforeAttribute = "trusted.orrery.before"
	// profile that containerd loads into the kernel for all containers that ask for no other.
	profile        = "cri-containerd.apparmor.d"
	appArmorFolder = "/sys/kernel/security/apparmor"
)

func (c cgroups) controllersGiven() []string {
	if c.Unified == "" {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(c.Unified, "cgroup.subtree_control"))
	if err != nil {
		return nil
	}
	return strings.Fields(string(b))
}

// noteBefore makes the common group of all environments and writes down how the host was, unless
// the group is there. It gives the group no controller.
func (c cgroups) noteBefore(group, appArmor string) error {
	at := filepath.Join(c.mounts()[0], path.Dir(group))
	if exists(at) {
		return nil
	}
	b, err := json.Marshal(hostBefore{Controllers: c.controllersGiven(), AppArmor: profileLoaded(appArmor), Modules: loadedModules(procModules)})
	if err != nil {
		return err
	}
	if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("the control group of all environments: %w", err)
	}
	err = unix.Setxattr(at, beforeAttribute, b, 0)
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) {
		return nil // then it stays as we leave it
	}
	return err
}

// before reads what noteBefore wrote.
func (c cgroups) before(group string) (hostBefore, bool) {
	var h hostBefore
	b := make([]byte, 4096)
	n, err := unix.Getxattr(filepath.Join(c.mounts()[0], path.Dir(group)), beforeAttribute, b)
	return h, err == nil && json.Unmarshal(b[:n], &h) == nil
}

// restore gives the host back what the last environment no longer needs. What somebody else has
// begun to use stays.
func (c cgroups) restore(h hostBefore, appArmor string, m modules) {
	for _, ctrl := range c.controllersGiven() {
		if !slices.Contains(h.Controllers, ctrl) {
			// Refused while another child of the root hands it on.
			_ = put(filepath.Join(c.Unified, "cgroup.subtree_control"), "-"+ctrl)
		}
	}
	if !h.AppArmor && profileLoaded(appArmor) && !profileUsed("/proc") {
		_ = put(filepath.Join(appArmor, ".remove"), profile)
	}
	m.restore(h.Modules)
}

func profileLoaded(appArmor string) bool {
	b, _ := os.ReadFile(filepath.Join(appArmor, "profiles"))
	for line := range strings.Lines(string(b)) {
		if name, _, _ := strings.Cut(line, " "); name == profile {
			return true
		}
	}
	return false
}

// profileUsed reports whether a process is confined by the profile: it would go free.
func profileUsed(proc string) bool {
	files, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "attr", "current"))
	return slices.ContainsFunc(files, func(f string) bool {
		b, _ := os.ReadFile(f)
		name, _, _ := strings.Cut(string(b), " ")
		return name == profile
	})
}

// appArmor shows a node what containerd needs to confine its containers, where the host has it:
// without, it takes AppArmor for missing and lets them run unconfined.
func (b *rootBuilder) appArmor(enabled func() bool) {
	if !enabled() {
		return
	}
	b.mount("securityfs", "/sys/kernel/security", "securityfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if exists("/etc/apparmor.d") {
		b.bind("/etc/apparmor.d", "/etc/apparmor.d", true)
	}
}

// appArmorEnabled on this host, with a program that loads profiles.
func appArmorEnabled() bool {
	b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(b), "Y") && exists("/sbin/"+appArmorParser)
}

const appArmorParser = "apparmor_parser"
