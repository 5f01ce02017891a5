package node

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/orrery-dev/orrery/internal/driver/k3d/contract"
	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/mirror/store"
)

const (
	mirrorFolder = "/var/lib/registry"
	mirrorSocket = "/tmp/registry.sock"
	registryProg = "/registry"
)

// How long no push may be in the middle before the folder is cleaned up, and for how long that is
// waited for.
const (
	quietBeforePrune = 2 * time.Second
	patienceForQuiet = time.Minute
)

const registryConfig = `version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: ` + mirrorFolder + `}
  delete: {enabled: true}
  maintenance:
    uploadpurging: {enabled: false}
http:
  net: unix
  addr: ` + mirrorSocket + `
validation:
  manifests:
    indexes: {platforms: none}
`

// Mirror is the environment's registry behind its gate: everybody reads, who knows the password
// writes.
func Mirror(names []string, out io.Writer) int {
	log := slog.New(slog.NewTextHandler(out, nil))
	if err := serveMirror(names, out, log); err != nil {
		fmt.Fprintf(out, "level=fatal msg=%q\n", err.Error())
		return 1
	}
	return 0
}

func serveMirror(names []string, out io.Writer, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	password := os.Getenv(contract.MirrorPassword)
	if password == "" {
		return fmt.Errorf("the mirror needs a password for those who write (%s)", contract.MirrorPassword)
	}
	config := filepath.Join(os.TempDir(), "registry.yaml")
	if err := os.WriteFile(config, []byte(registryConfig), 0o600); err != nil {
		return err
	}
	_ = os.Remove(mirrorSocket)
	registry := exec.CommandContext(ctx, registryProg, "serve", config)
	registry.Stdout, registry.Stderr = out, out
	registry.Env = []string{"OTEL_TRACES_EXPORTER=none", "GOGC=50"}
	registry.Cancel = func() error { return registry.Process.Signal(syscall.SIGTERM) }
	registry.WaitDelay = 2 * time.Second
	if err := registry.Start(); err != nil {
		return fmt.Errorf("start the registry: %w", err)
	}
	var writes mirror.Writes
	gate := mirror.Gate{
		Hosts: append([]string{"127.0.0.1", "localhost"}, names...), Log: log, Writes: &writes,
		Dial: func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", mirrorSocket)
		},
		Password: func() (string, error) { return password, nil },
	}
	server := gate.Server()
	mux := http.NewServeMux()
	mux.Handle("/", server.Handler)
	for path, do := range map[string]func(*http.Request) (any, error){
		contract.PrunePath: func(r *http.Request) (any, error) { return prune(r, &writes) }, contract.MendPath: mend,
	} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			if user, given, ok := r.BasicAuth(); !ok || user != mirror.User || subtle.ConstantTimeCompare([]byte(given), []byte(password)) != 1 {
				http.Error(w, "the password is needed", http.StatusUnauthorized)
				return
			}
			done, err := do(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			_ = json.NewEncoder(w).Encode(done)
		})
	}
	server.Handler = mux
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", contract.MirrorPort))
	if err != nil {
		return err
	}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	log.Info("listening on", "port", contract.MirrorPort)
	if err := registry.Wait(); ctx.Err() == nil {
		return fmt.Errorf("the registry ended: %w", err)
	}
	return nil
}

func prune(r *http.Request, writes *mirror.Writes) (store.Pruned, error) {
	var ask contract.Pruning
	if err := json.NewDecoder(io.LimitReader(r.Body, 16<<20)).Decode(&ask); err != nil {
		return store.Pruned{}, err
	}
	s, err := store.Open(mirrorFolder)
	if err != nil {
		return store.Pruned{}, err
	}
	defer s.Close()
	if !ask.DryRun {
		quiet, cancel := context.WithTimeout(r.Context(), patienceForQuiet)
		defer cancel()
		release, err := writes.Hold(quiet, quietBeforePrune)
		if err != nil {
			return store.Pruned{}, fmt.Errorf("nothing was removed: %w; do it again when that has ended", err)
		}
		defer release()
	}
	return s.Prune(r.Context(), ask.InUse, ask.DryRun)
}

// mend needs no pushes to wait: a blob that somebody is about to name is whole.
func mend(r *http.Request) (any, error) {
	var digests []string
	if err := json.NewDecoder(io.LimitReader(r.Body, 16<<20)).Decode(&digests); err != nil {
		return nil, err
	}
	s, err := store.Open(mirrorFolder)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Mend(r.Context(), digests)
}
