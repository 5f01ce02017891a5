package native

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const procModules = "/proc/modules"

// moduleKinds are the kernel modules that making an environment loads and that can be given back:
// those whose every user the kernel counts (""), and those that somebody uses who has a link of that
// kind. Such a module can be unloaded all the same, and its links go with it.
//
// nf_tables is not among them: unloading it takes the tables of others with it, and it counts none.
var moduleKinds = map[string]string{
	"bridge": "bridge", "stp": "", "llc": "", "veth": "veth", "overlay": "",
	"vxlan": "vxlan", "udp_tunnel": "", "ip6_udp_tunnel": "",
}

// loadedModules of moduleKinds; nil when the kernel does not say. What is built in is never listed.
func loadedModules(list string) []string {
	b, err := os.ReadFile(list)
	if err != nil {
		return nil
	}
	loaded := []string{}
	for line := range strings.Lines(string(b)) {
		name, _, _ := strings.Cut(line, " ")
		if _, ours := moduleKinds[name]; ours {
			loaded = append(loaded, name)
		}
	}
	return loaded
}

// modules unloads what was not loaded before and is no longer used.
type modules struct {
	list string // /proc/modules
	// used lists the kinds of links in all network namespaces; an error means that nobody can tell.
	used   func() ([]string, error)
	unload func(name string) error
}

func hostModules() modules {
	return modules{list: procModules, used: linkKinds, unload: func(name string) error {
		return unix.DeleteModule(name, unix.O_NONBLOCK)
	}}
}

// restore keeps a module that the kernel calls busy. A module that others of ours stand on goes
// after them, so it goes around until nothing changes.
func (m modules) restore(before []string) {
	isNew := func(name string) bool { return !slices.Contains(before, name) }
	if before == nil || !slices.ContainsFunc(loadedModules(m.list), isNew) {
		return
	}
	kinds, err := m.used()
	if err != nil {
		return
	}
	for again := true; again; {
		again = false
		for _, name := range loadedModules(m.list) {
			if isNew(name) && !slices.Contains(kinds, moduleKinds[name]) {
				again = m.unload(name) == nil || again
			}
		}
	}
}

// linkKinds of all network namespaces that a process is in or holds open, or that are mounted.
func linkKinds() ([]string, error) {
	seen, kinds := map[string]bool{}, []string{}
	for _, pattern := range []string{"/proc/[0-9]*/ns/net", "/proc/[0-9]*/task/[0-9]*/ns/net", "/proc/[0-9]*/fd/*"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			id, err := os.Readlink(f)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
				continue // it ended meanwhile
			}
			if err != nil {
				return nil, err
			}
			if !strings.HasPrefix(id, "net:[") || seen[id] {
				continue
			}
			seen[id] = true
			if kinds, err = addLinkKinds(kinds, f); err != nil {
				return nil, err
			}
		}
	}
	for _, at := range mountedNamespaces() {
		var err error
		if kinds, err = addLinkKinds(kinds, at); err != nil {
			return nil, err
		}
	}
	return kinds, nil
}

// mountedNamespaces are paths at which a process sees a mount of a network namespace. Each is
// looked at through that process, whatever its root is.
func mountedNamespaces() []string {
	var found []string
	seen := map[string]bool{}
	files, _ := filepath.Glob("/proc/[0-9]*/mountinfo")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			f5 := strings.Fields(line)
			if len(f5) < 5 || !strings.HasPrefix(f5[3], "net:[") || seen[f5[3]] {
				continue
			}
			seen[f5[3]] = true
			found = append(found, filepath.Join(filepath.Dir(f), "root", f5[4]))
		}
	}
	return found
}

func addLinkKinds(kinds []string, namespace string) ([]string, error) {
	ns, err := netns.GetFromPath(namespace)
	if errors.Is(err, fs.ErrNotExist) {
		return kinds, nil // its last process ended meanwhile
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", namespace, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("look into the network of %s: %w", namespace, err)
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("links of %s: %w", namespace, err)
	}
	for _, l := range links {
		if !slices.Contains(kinds, l.Type()) {
			kinds = append(kinds, l.Type())
		}
	}
	return kinds, nil
}
