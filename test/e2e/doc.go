// Package e2e holds journeys on real platforms: what a person does from nothing to
// nothing, and what happens when things are killed under them. The tests talk to a
// platform only as a person can: through the command line, the kubeconfig, the registry
// port and signals to processes. What they say about leftovers they find out themselves,
// without orrery's own audit.
//
// They make Linux namespaces, so they need root; they take minutes, so they are asked for:
//
//	ORRERY_E2E=1 go test -count=1 -timeout 30m -v ./test/e2e
//
// ORRERY_E2E_BUNDLE=full has TestBundle carry all components to three servers and two agents.
//
// ORRERY_E2E_TELEMETRY=1 adds TestTelemetry: what metrics, logs and traces do when things fail.
//
// ORRERY_E2E_FULL=1 adds TestVault: pulse on leased credentials, and Vault sealed, lost and restored; and
// TestRenewal: certificates of a minute under load. ORRERY_E2E_SECURITY=1 adds TestSecurity, the attacks.
//
// ORRERY_E2E_DIR is where state is kept meanwhile (default /var/tmp; a real file system,
// not an overlay), ORRERY_E2E_LOGS where support archives of failed tests go. Binaries and
// images come from the usual cache, so that they are built once.
//
// Start reading at platform_test.go.
package e2e
