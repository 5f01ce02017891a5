package ci

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// flakeLock is the part of flake.lock that is checked.
type flakeLock struct {
	Nodes map[string]struct {
		Inputs map[string]any `json:"inputs"`
		Locked struct {
			Rev     string `json:"rev"`
			NarHash string `json:"narHash"`
		} `json:"locked"`
	} `json:"nodes"`
	Root    string `json:"root"`
	Version int    `json:"version"`
}

// Every input is pinned by commit and by hash, and each that flake.nix names is there.
func TestFlakeLock(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(here, "flake.lock"))
	if err != nil {
		t.Fatal(err)
	}
	var l flakeLock
	if err := json.Unmarshal(data, &l); err != nil {
		t.Fatal(err)
	}
	rev, hash := regexp.MustCompile(`^[0-9a-f]{40}$`), regexp.MustCompile(`^sha256-[A-Za-z0-9+/]{43}=$`)
	for name, n := range l.Nodes {
		if name != l.Root && (!rev.MatchString(n.Locked.Rev) || !hash.MatchString(n.Locked.NarHash)) {
			t.Errorf("%s is pinned by %q and %q", name, n.Locked.Rev, n.Locked.NarHash)
		}
		for input, to := range n.Inputs {
			if other, ok := to.(string); ok && len(l.Nodes[other].Locked.Rev) == 0 {
				t.Errorf("%s.%s leads to %q, which is not there", name, input, other)
			}
		}
	}
	flake, err := os.ReadFile(filepath.Join(here, "flake.nix"))
	if err != nil {
		t.Fatal(err)
	}
	for input := range l.Nodes[l.Root].Inputs {
		if !strings.Contains(string(flake), input) {
			t.Errorf("flake.nix has no input %s", input)
		}
	}
	if l.Version != 7 {
		t.Errorf("version %d", l.Version)
	}
}

// standIn has the parts of nixpkgs that the flake uses, as names only: which packages there
// are in nixpkgs is not known without fetching it.
const standIn = `{ system, overlays }: let name = n: n; in
builtins.listToAttrs (map (n: { name = n; value = n; }) (builtins.filter builtins.isString (builtins.split " " ''NAMES''))) // {
  rust-bin.stable.latest.default.override = a: "rust with " + toString a.targets;
  buildGoModule.override = { go }: a: a // { compiler = go; };
  mkShell = a: a.packages;
  runCommand = n: a: s: s;
}`

// The flake is parsed and evaluated with stand-ins for its inputs, which are not fetched.
func TestFlake(t *testing.T) {
	nix, err := exec.LookPath("nix-instantiate")
	if err != nil {
		t.Skip("nix-instantiate is not on PATH")
	}
	dir := t.TempDir()
	names := "go_1_26 gcc git gnumake jq cargo-audit cargo-deny protobuf wasm-pack actionlint cosign gitleaks go-task golangci-lint" +
		" govulncheck just pre-commit sops syft trivy"
	flake, err := filepath.Abs(filepath.Join(here, "flake.nix"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, map[string]string{
		"nixpkgs/default.nix": strings.ReplaceAll(standIn, "NAMES", names),
		"rust/default.nix":    "null",
		"ask.nix": `let
  out = (import ` + flake + `).outputs {
    self = { outPath = "/src"; rev = "c0ffee"; shortRev = "c0f"; };
    nixpkgs = ./nixpkgs;
    rust-overlay = ./rust;
    flake-utils.lib.eachSystem = systems: f: f (builtins.head systems);
  };
in {
  app = { inherit (out.packages.app) version compiler vendorHash ldflags; };
  shell = out.devShells.default;
  checks = builtins.attrNames out.checks;
}`,
	})
	cmd := exec.CommandContext(t.Context(), nix, "--eval", "--strict", "--json", filepath.Join(dir, "ask.nix"))
	cmd.Env = append(os.Environ(), "NIX_STORE_DIR="+dir+"/store", "NIX_STATE_DIR="+dir+"/state", "NIX_LOG_DIR="+dir+"/log",
		"NIX_CONF_DIR="+dir+"/etc", "HOME="+dir)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	var said struct {
		App struct {
			Version, Compiler, VendorHash string
			LDFlags                       []string
		}
		Shell, Checks []string
	}
	if err := json.Unmarshal(out, &said); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if said.App.Compiler != "go_1_26" || !strings.HasPrefix(said.App.VendorHash, "sha256-") || len(said.App.LDFlags) == 0 {
		t.Errorf("app: %+v", said.App)
	}
	for _, want := range []string{"go_1_26", "rust with wasm32-unknown-unknown", "cargo-audit", "cargo-deny", "protobuf", "wasm-pack"} {
		if !slices.Contains(said.Shell, want) {
			t.Errorf("nix develop lacks %s: %v", want, said.Shell)
		}
	}
	if !slices.Equal(said.Checks, []string{"app", "format"}) {
		t.Errorf("checks: %v", said.Checks)
	}
	t.Log("not evaluated: nixpkgs, rust-overlay and flake-utils themselves, which are not fetched")
}
