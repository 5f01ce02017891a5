package native

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// fakeKernel has modules, as /proc/modules lists them, and who stands on whom.
type fakeKernel struct {
	t      *testing.T
	list   string
	loaded []string
	users  map[string][]string
}

func (k *fakeKernel) write() {
	k.t.Helper()
	var b strings.Builder
	for _, m := range k.loaded {
		b.WriteString(m + " 409600 0 - Live 0x0000000000000000\n")
	}
	if err := os.WriteFile(k.list, []byte(b.String()), 0o600); err != nil {
		k.t.Fatal(err)
	}
}

func (k *fakeKernel) unload(name string) error {
	if slices.ContainsFunc(k.users[name], func(u string) bool { return slices.Contains(k.loaded, u) }) {
		return unix.EWOULDBLOCK
	}
	k.loaded = slices.DeleteFunc(k.loaded, func(m string) bool { return m == name })
	k.write()
	return nil
}

func TestModulesAreGivenBack(t *testing.T) {
	all := []string{"llc", "stp", "bridge", "veth", "nf_tables", "usbhid"}
	for _, tc := range []struct {
		name   string
		before []string
		kinds  []string // of links that are left
		blind  error
		want   []string // that stay
	}{
		{"nothing was there", []string{}, []string{"device"}, nil, []string{"nf_tables", "usbhid"}},
		{"some were there before", []string{"veth", "llc"}, nil, nil, []string{"llc", "veth", "nf_tables", "usbhid"}},
		{"somebody has a bridge", []string{}, []string{"bridge"}, nil, []string{"llc", "stp", "bridge", "nf_tables", "usbhid"}},
		{"somebody has a veth", []string{}, []string{"veth"}, nil, []string{"veth", "nf_tables", "usbhid"}},
		{"nobody can look", []string{}, nil, errors.New("no right"), all},
		{"nobody looked before", nil, nil, nil, all},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := &fakeKernel{t: t, list: filepath.Join(t.TempDir(), "modules"), loaded: slices.Clone(all),
				users: map[string][]string{"llc": {"stp", "bridge"}, "stp": {"bridge"}}}
			k.write()
			m := modules{list: k.list, unload: k.unload, used: func() ([]string, error) { return tc.kinds, tc.blind }}
			m.restore(tc.before)
			if !slices.Equal(k.loaded, tc.want) {
				t.Errorf("left %q, want %q", k.loaded, tc.want)
			}
		})
	}
}

func TestLoadedModules(t *testing.T) {
	list := filepath.Join(t.TempDir(), "modules")
	if got := loadedModules(list); got != nil {
		t.Errorf("a kernel that does not say: %q", got)
	}
	if err := os.WriteFile(list, []byte("veth 36864 0 - Live 0x0\next4 1 1 - Live 0x0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := loadedModules(list); !slices.Equal(got, []string{"veth"}) {
		t.Errorf("got %q", got)
	}
	if err := os.WriteFile(list, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := loadedModules(list); got == nil || len(got) > 0 {
		t.Errorf("a kernel without modules: %#v", got)
	}
}

// A namespace that only a mount or a descriptor holds is looked into as well.
func TestLinkKindsOfOtherNamespaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes a network namespace")
	}
	ns, err := newNetNS()
	if err != nil {
		t.Skipf("cannot make a network namespace here: %v", err)
	}
	defer ns.close()
	before, err := linkKinds()
	if errors.Is(err, fs.ErrPermission) {
		t.Skipf("not all processes can be looked at here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(before, "dummy") {
		t.Skip("somebody has a link of the kind that would tell")
	}
	err = ns.do(func() error {
		return netlink.LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "d0"}})
	})
	if err != nil {
		t.Skipf("cannot make a link here: %v", err)
	}
	if kinds, err := linkKinds(); err != nil || !slices.Contains(kinds, "dummy") {
		t.Errorf("kinds %q, %v", kinds, err)
	}
}
