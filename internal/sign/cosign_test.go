package sign

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// findCosign returns the real cosign: ORRERY_TEST_COSIGN, or the one on PATH.
func findCosign(t *testing.T) string {
	t.Helper()
	if file := os.Getenv("ORRERY_TEST_COSIGN"); file != "" {
		return file
	}
	file, err := exec.LookPath("cosign")
	if err != nil {
		t.Skip("cosign is neither on PATH nor in ORRERY_TEST_COSIGN; tools/build cosign compiles it (5 CPU-minutes)")
	}
	return file
}

// cosign runs it with a home of its own, and without a way to any network.
func cosign(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), findCosign(t), args...)
	cmd.Env = []string{"HOME=" + t.TempDir(), "COSIGN_PASSWORD=test", "HTTPS_PROXY=http://127.0.0.1:1", "HTTP_PROXY=http://127.0.0.1:1", "NO_PROXY=127.0.0.1"}
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	err = cmd.Run()
	return out.String(), log.String(), err
}

// TestCosignAccepts has the real cosign verify what Attach attached, offline, by the
// command lines that docs/reference/signatures.md gives.
func TestCosignAccepts(t *testing.T) {
	findCosign(t)
	for name, address := range map[string]func(t *testing.T) string{
		"referrers API":      func(t *testing.T) string { return newMirror(t, true).address },
		"referrers by tag":   func(t *testing.T) string { return newMirror(t, false).address },
		"registry of a node": newDistribution,
	} {
		t.Run(name, func(t *testing.T) {
			p := publish(t, address(t))
			k, dir := testKey(t)
			if err := Attach(t.Context(), p.mirror(), imageName, p.digest, k, p.docs); err != nil {
				t.Fatal(err)
			}
			ref := p.address + "/" + imageName + "@" + p.digest
			flags := []string{"--key", filepath.Join(dir, PublicFile), "--insecure-ignore-tlog", "--allow-http-registry"}

			out, log, err := cosign(t, append(append([]string{"verify"}, flags...), ref)...)
			if err != nil || !strings.Contains(out, p.digest) {
				t.Fatalf("verify: %v\n%s%s", err, out, log)
			}
			for kind, predicateType := range map[string]string{"slsaprovenance1": ProvenancePredicate, "cyclonedx": SBOMPredicate} {
				out, log, err := cosign(t, append(append([]string{"verify-attestation", "--type", kind}, flags...), ref)...)
				if err != nil {
					t.Errorf("verify-attestation --type %s: %v\n%s%s", kind, err, out, log)
					continue
				}
				var e envelope
				var s statement
				if err := json.Unmarshal([]byte(out), &e); err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal(e.Payload, &s); err != nil || s.PredicateType != predicateType || !s.about(p.digest) {
					t.Errorf("%s: %v, %+v", kind, err, s)
				}
			}

			_, other := testKey(t)
			flags[1] = filepath.Join(other, PublicFile)
			if out, log, err := cosign(t, append(append([]string{"verify"}, flags...), ref)...); err == nil {
				t.Errorf("cosign accepts another key:\n%s%s", out, log)
			}
		})
	}
}

// TestCosignSigns: what the real cosign signs with our key, we accept; it opens our key.
func TestCosignSigns(t *testing.T) {
	findCosign(t)
	p := publish(t, newMirror(t, true).address)
	k, dir := testKey(t)
	ref := p.address + "/" + imageName + "@" + p.digest
	out, log, err := cosign(t, "sign", "--yes", "--key", filepath.Join(dir, PrivateFile), "--tlog-upload=false", "--use-signing-config=false", "--allow-http-registry", ref)
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, log)
	}
	if _, err := Verify(t.Context(), p.mirror(), imageName, p.digest, Policy{Keys: []PublicKey{k.Public()}, Foreign: true}); err != nil {
		t.Error(err)
	}
}

// TestCosignKeys: we read the keys that cosign makes.
func TestCosignKeys(t *testing.T) {
	findCosign(t)
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), findCosign(t), "generate-key-pair")
	cmd.Dir = dir
	cmd.Env = []string{"HOME=" + dir, "COSIGN_PASSWORD=test"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	k, err := EnsureKey(t.Context(), dir, Passwords{Given: "test"})
	if err != nil {
		t.Fatal(err)
	}
	sig, err := k.SignBlob([]byte("data"))
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Public().VerifyBlob([]byte("data"), sig); err != nil {
		t.Error(err)
	}
}
