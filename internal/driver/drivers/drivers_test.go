package drivers

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

type noJournal struct{ t *testing.T }

func (j noJournal) Begin(e driver.Effect) error {
	j.t.Errorf("a constructor has effects: %+v", e)
	return nil
}
func (noJournal) Undone(driver.Effect) error { return nil }

// A driver is a folder and a line: what the line promises, the folder has, and making one does
// nothing to the machine.
func TestEveryDriver(t *testing.T) {
	for _, name := range driver.Names() {
		t.Run(name, func(t *testing.T) {
			kind, err := driver.Lookup(name)
			if err != nil {
				t.Fatal(err)
			}
			if info, err := os.Stat(filepath.Join("..", name)); err != nil || !info.IsDir() {
				t.Errorf("there is no folder internal/driver/%s: %v", name, err)
			}
			code, err := os.ReadFile("drivers.go")
			if err != nil || bytes.Count(code, []byte(name+".Kind()")) > 1 {
				t.Errorf("drivers.go names %s more than once, or cannot be read: %v", name, err)
			}
			e := spec.Named("unit")
			e.Driver, e.Ports = name, spec.Ports{API: 12345, Registry: 12346}
			if name == "existing" { // which has a block of its own
				e.Existing = &spec.Existing{Kubeconfig: "/etc/kubeconfig", Context: "unit"}
			}
			if e.Network.Plugin == spec.PluginAuto && kind.DecideNetwork != nil {
				e.Network.Plugin = spec.PluginPTP
			}
			dir := filepath.Join(t.TempDir(), "state")
			d, err := kind.New(driver.Options{
				Spec: e, StateDir: dir, CacheDir: dir, Executable: os.Args[0], Journal: noJournal{t}, Sink: ui.Discard, Log: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(dir); err == nil {
				t.Error("a constructor made the state folder")
			}
			_, distributor := d.(driver.Distributor)
			_, mirrored := d.(driver.Mirrored)
			_, controller := d.(driver.NodeController)
			for what, is := range map[string][2]bool{
				"Distribution": {kind.Distribution, distributor}, "Mirror": {kind.Mirror, mirrored}, "NodeFaults": {kind.NodeFaults, controller},
			} {
				if is[0] != is[1] {
					t.Errorf("capability %s is %v, and the driver implements it: %v", what, is[0], is[1])
				}
			}
			if o, err := d.Observe(t.Context()); err != nil || o.Phase != driver.PhaseAbsent {
				t.Errorf("what was never made is %q, %v", o.Phase, err)
			}
		})
	}
	if _, err := driver.Lookup("natve"); err == nil || err.Error() != `driver: this orrery has no "natve", but native; did you mean "native"?` && len(driver.Names()) == 1 {
		t.Errorf("a slip of the pen: %v", err)
	}
}
