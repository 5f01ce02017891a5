package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// signatures: every image in the mirror is signed and says what it is; the real cosign, if
// there is one, thinks so too; a flipped byte is found; a lost key is replaced.
func signatures(t *testing.T, e *environment) {
	type verification struct {
		OK          bool
		TrustedKeys []string
		Images      []struct {
			Image, Digest, Signer string
			Checks                []struct{ Check, State, Detail string }
		}
	}
	verify := func(code int, names ...string) verification {
		t.Helper()
		r := e.try(t, append([]string{"images", "verify", "-o", "json"}, names...)...)
		if r.code != code {
			t.Fatal(r)
		}
		return decode[verification](t, r.stdout)
	}
	v := verify(0)
	if !v.OK || len(v.Images) < 3 || len(v.TrustedKeys) != 1 {
		t.Errorf("%+v", v)
	}
	for _, i := range v.Images {
		for _, c := range i.Checks {
			if c.State != "passed" || i.Signer != v.TrustedKeys[0] {
				t.Errorf("image %s, by %s: check %s %s: %s", i.Image, i.Signer, c.Check, c.State, c.Detail)
			}
		}
	}
	victim := v.Images[0]

	cosign := os.Getenv("ORRERY_TEST_COSIGN")
	if cosign == "" {
		cosign, _ = exec.LookPath("cosign")
	}
	if cosign == "" {
		t.Log("cosign is not on PATH and not in ORRERY_TEST_COSIGN: its opinion was not asked")
	} else {
		ref := strings.TrimPrefix(e.status(t).Endpoints["registry"], "http://") + "/" + victim.Image + "@" + victim.Digest
		for _, args := range [][]string{{"verify"}, {"verify-attestation", "--type", "slsaprovenance1"}, {"verify-attestation", "--type", "cyclonedx"}} {
			args = append(args, "--key", e.state("signing", "cosign.pub"), "--insecure-ignore-tlog", "--allow-http-registry", ref)
			if out, err := exec.CommandContext(t.Context(), cosign, args...).CombinedOutput(); err != nil {
				t.Errorf("cosign %s: %v\n%s", strings.Join(args, " "), err, out)
			}
		}
	}

	// One byte of the largest layer.
	blob := largestBlob(t, e, victim.Image)
	flip(t, blob)
	damaged := verify(1, victim.Image)
	hex := filepath.Base(filepath.Dir(blob))
	if damaged.OK || damaged.Images[0].Checks[0].State != "failed" || !strings.Contains(damaged.Images[0].Checks[0].Detail, hex) {
		t.Errorf("a flipped byte in %s: %+v", hex, damaged)
	}
	flip(t, blob)
	verify(0, victim.Image)

	// As after a restart of the machine.
	id, err := unix.KeyctlSearch(unix.KEY_SPEC_USER_KEYRING, "user", "orrery:signing:"+e.state("signing"), 0)
	if err != nil {
		t.Skip("there is no keyring here:", err)
	}
	if _, err := unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_USER_KEYRING, 0, 0); err != nil {
		t.Fatal(err)
	}
	if v := verify(1); v.OK || len(v.TrustedKeys) > 0 {
		t.Errorf("without its key: %+v", v)
	}
	all, _ := e.up(t, "up", "--skip-verify")
	noticed := false
	for _, event := range all {
		noticed = noticed || event.Type == "notice" && strings.Contains(event.Message, "a new key is made")
	}
	if !noticed {
		t.Error("up does not say that the key is new")
	}
	if again := verify(0); again.TrustedKeys[0] == v.TrustedKeys[0] {
		t.Error("the key is the old one")
	}
}

// largestBlob is the file of the largest layer of an image, in the mirror's storage.
func largestBlob(t *testing.T, e *environment, image string) string {
	t.Helper()
	root := e.state("registry", "docker", "registry", "v2")
	links, err := filepath.Glob(filepath.Join(root, "repositories", image, "_layers", "sha256", "*", "link"))
	if err != nil || len(links) == 0 {
		t.Fatalf("no layers of %s in the mirror: %v", image, err)
	}
	var largest string
	var size int64
	for _, link := range links {
		hex := filepath.Base(filepath.Dir(link))
		file := filepath.Join(root, "blobs", "sha256", hex[:2], hex, "data")
		if info, err := os.Stat(file); err == nil && info.Size() > size {
			largest, size = file, info.Size()
		}
	}
	return largest
}

// flip turns over one bit in the middle of a file.
func flip(t *testing.T, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err == nil {
		data[len(data)/2] ^= 1
		err = os.WriteFile(file, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
