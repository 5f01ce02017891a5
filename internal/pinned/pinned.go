package pinned

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/catalog"
)

// Errors of [Store] wrap one of these.
var (
	// ErrNotReachable: nobody who was asked gave the file. With ErrNoAnswer beside it, there was
	// too little time.
	ErrNotReachable = errors.New("not reachable")
	ErrNoAnswer     = errors.New("no answer in time")
	// ErrWrongContent: what came is not what its hash says.
	ErrWrongContent = errors.New("wrong content")
)

// maxSize bounds a file, in bytes. The largest that is known, all CRDs of an operator in one,
// has 3.8 MB.
const maxSize = 16 << 20

// Dir is the folder of the cache that holds files by their SHA-256.
const Dir = "files"

// Store finds files. It is safe for concurrent use, also by several processes on one folder.
type Store struct {
	// CacheDir holds what was fetched, in [Dir].
	CacheDir string
	// Imported are folders that hold files by their SHA-256 besides, of bundles.
	Imported []string
	// Mirrors are asked before where a file is published, the first first: they have it at
	// MIRROR/HOST/PATH.
	Mirrors []string
	// Client fetches; nil: nothing is fetched.
	Client *http.Client
}

// Cached is the content of a file that is on this machine. A damaged copy does not count.
func (s *Store) Cached(f catalog.File) ([]byte, bool) {
	for _, dir := range append([]string{filepath.Join(s.CacheDir, Dir)}, s.Imported...) {
		if data, err := os.ReadFile(filepath.Join(dir, f.SHA256)); err == nil && sum(data) == f.SHA256 {
			return data, true
		}
	}
	return nil, false
}

// Get is the content of a file, fetched where it must be. Whoever serves it has until limit to
// begin; after that only silence is an error.
func (s *Store) Get(ctx context.Context, f catalog.File, limit time.Duration) ([]byte, error) {
	if data, ok := s.Cached(f); ok {
		return data, nil
	}
	if s.Client == nil {
		return nil, fmt.Errorf("file %s %w: it is not on this machine, and images.sources of orrery.yaml does not name registry", f.URL, ErrNotReachable)
	}
	var errs []error
	deadline := time.Now().Add(limit)
	for _, url := range s.addresses(f) {
		data, err := s.fetch(ctx, url, time.Until(deadline))
		if err == nil {
			err = compare(f, url, data)
		}
		if err == nil {
			return data, s.keep(f, data)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// addresses are where the file may be, in order.
func (s *Store) addresses(f catalog.File) []string {
	var urls []string
	for _, mirror := range s.Mirrors {
		urls = append(urls, strings.TrimSuffix(mirror, "/")+"/"+strings.TrimPrefix(f.URL, "https://"))
	}
	return append(urls, f.URL)
}

func (s *Store) fetch(ctx context.Context, url string, limit time.Duration) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(limit, func() { cancel(ErrNoAnswer) })
	defer late.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("file %s %w: %w", url, ErrNotReachable, err)
	}
	resp, err := s.Client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("file %s %w: %w", url, ErrNotReachable, reason(ctx, err))
	}
	defer resp.Body.Close()
	late.Stop()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("file %s %w: the answer is %d %s", url, ErrNotReachable, resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("file %s %w: it ends after %d bytes: %w", url, ErrNotReachable, len(data), reason(ctx, err))
	}
	if len(data) > maxSize {
		return nil, fmt.Errorf("file %s: %w: it has more than %d MiB", url, ErrWrongContent, maxSize>>20)
	}
	return data, nil
}

// reason is what a person needs of an error of the network: no address twice.
func reason(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), ErrNoAnswer) {
		return ErrNoAnswer
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return fmt.Errorf("the name %s cannot be resolved", dns.Name)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("%w: images.caBundle of orrery.yaml names a file with further authorities", errors.Unwrap(err))
	}
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}

// compare says what came instead.
func compare(f catalog.File, url string, data []byte) error {
	got := sum(data)
	if got == f.SHA256 {
		return nil
	}
	hint := ""
	switch text := strings.TrimSpace(string(data[:min(len(data), 200)])); {
	case len(data) < 200 && strings.HasPrefix(text, "../") && !strings.ContainsAny(text, "\n "):
		hint = fmt.Sprintf(": it is a symbolic link of the repository to %s; name that file", text)
	case bytes.HasPrefix(bytes.ToLower(bytes.TrimSpace(data)), []byte("<!doctype html")), bytes.HasPrefix(bytes.ToLower(bytes.TrimSpace(data)), []byte("<html")):
		hint = ": it is a page for people, of a proxy perhaps"
	}
	return fmt.Errorf("file %s: %w: sha256 is %s (%d bytes), and component.yaml says %s of commit %s%s", url, ErrWrongContent, got, len(data), f.SHA256, f.Commit, hint)
}

func (s *Store) keep(f catalog.File, data []byte) error {
	dir := filepath.Join(s.CacheDir, Dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("keep file %s: %w", f.Name, err)
	}
	if err := atomicfile.Write(filepath.Join(dir, f.SHA256), data, 0o644); err != nil {
		return fmt.Errorf("keep file %s: %w", f.Name, err)
	}
	return nil
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}
