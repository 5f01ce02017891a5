package sign

import (
	"errors"
	"os"
	"os/exec"
	"testing"
)

// memory is a keyring for tests; broken makes it one that a container does not have.
type memory struct {
	entries map[string][]byte
	broken  error
}

func (m *memory) get(name string) ([]byte, error) {
	if m.broken != nil {
		return nil, m.broken
	}
	if s, ok := m.entries[name]; ok {
		return s, nil
	}
	return nil, errNoEntry
}

func (m *memory) set(name string, secret []byte) error {
	if m.broken != nil {
		return m.broken
	}
	if m.entries == nil {
		m.entries = map[string][]byte{}
	}
	m.entries[name] = secret
	return nil
}

func (m *memory) remove(name string) error {
	delete(m.entries, name)
	return m.broken
}

const childEntry = "ORRERY_TEST_KEYRING_ENTRY"

// TestKernelKeyring: an entry is found by another process, and is gone when removed.
func TestKernelKeyring(t *testing.T) {
	var ring kernelKeyring
	if name := os.Getenv(childEntry); name != "" {
		secret, err := ring.get(name)
		if err != nil || string(secret) != "s3cret" {
			t.Fatalf("child: %q, %v", secret, err)
		}
		return
	}
	name := entryName(t.TempDir())
	if _, err := ring.get(name); !errors.Is(err, errNoEntry) {
		if err != nil {
			t.Skip("there is no keyring here:", err)
		}
		t.Fatal("an entry that nobody made")
	}
	t.Cleanup(func() { _ = ring.remove(name) })
	for _, secret := range []string{"another", "s3cret"} { // the second replaces the first
		if err := ring.set(name, []byte(secret)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKernelKeyring$")
	cmd.Env = append(os.Environ(), childEntry+"="+name)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := ring.remove(name); err != nil {
		t.Fatal(err)
	}
	if _, err := ring.get(name); !errors.Is(err, errNoEntry) {
		t.Error("not removed:", err)
	}
	if err := ring.remove(name); err != nil {
		t.Error("removed twice:", err)
	}
}
