# nix develop: everything that a change needs. nix build .#app: the command line, by the same
# flags as a release. What is pinned is in flake.lock.
{
  description = "orrery: a production platform on one machine";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    flake-utils.url = "github:numtide/flake-utils";
    rust-overlay = {
      url = "github:oxalica/rust-overlay";
      inputs.nixpkgs.follows = "nixpkgs";
    };
  };

  outputs = { self, nixpkgs, flake-utils, rust-overlay }:
    flake-utils.lib.eachSystem [ "x86_64-linux" "aarch64-linux" "aarch64-darwin" ] (system:
      let
        pkgs = import nixpkgs { inherit system; overlays = [ (import rust-overlay) ]; };
        rust = pkgs.rust-bin.stable.latest.default.override {
          extensions = [ "rust-src" ];
          targets = [ "wasm32-unknown-unknown" ];
        };
        # Modules are those of the Go proxy, held to go.sum, as everywhere else: a second hash
        # over them would be one more thing to keep.
        go = pkgs.go_1_26;
        app = pkgs.buildGoModule.override { inherit go; } {
          pname = "orrery";
          version = self.shortRev or "dirty";
          src = self;
          proxyVendor = true;
          # Of the files that go mod download leaves; nix says the right one when go.sum changed.
          vendorHash = "sha256-fbvHq638JdB50MtOLJJUdVU16Ek1iuAO0aTLI6ZUSfU=";
          subPackages = [ "cmd/orrery" ];
          env.CGO_ENABLED = 0;
          ldflags = [ "-s" "-w" "-X github.com/orrery-dev/orrery/internal/app.revision=${self.rev or ""}" ];
          doCheck = false;
        };
      in
      {
        packages = { inherit app; default = app; };
        devShells.default = pkgs.mkShell {
          packages = [ go rust ] ++ (with pkgs; [
            gcc git gnumake jq
            cargo-audit cargo-deny protobuf wasm-pack
            actionlint cosign gitleaks go-task golangci-lint govulncheck just pre-commit sops syft trivy
          ]);
        };
        checks = {
          inherit app;
          format = pkgs.runCommand "format" { } ''
            test -z "$(${go}/bin/gofmt -l ${self}/cmd ${self}/internal)" && touch $out
          '';
        };
      });
}
