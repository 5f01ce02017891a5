package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/beneath"
)

// maxLog is where a log is moved to NAME.log.1 (which is overwritten).
const maxLog = 16 << 20

// rotateLogs bounds the logs of the environment. Their writers keep them open in append
// mode, so the content is copied and the file emptied; what is written between is lost.
func rotateLogs(p paths, log *slog.Logger) {
	patterns := []string{p.join("log", "*.log"), p.join("nodes", "*", "log", "*.log")}
	for _, pattern := range patterns {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			if st, err := os.Lstat(f); err != nil || st.Size() < maxLog {
				continue
			}
			if err := copyTruncate(filepath.Dir(f), filepath.Base(f)); err != nil {
				log.Warn("rotate", "file", f, "error", err)
			}
		}
	}
}

// copyTruncate trusts dir and nothing in it: it is a node's own /var/log/orrery. Of a log that
// grew faster than anybody looked, or has holes, the end is kept.
func copyTruncate(dir, name string) error {
	from, err := beneath.Open(dir, name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer from.Close()
	st, err := from.Stat()
	if err != nil {
		return err
	}
	old, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer old.Close()
	if err := old.Remove(name + ".1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	to, err := beneath.Open(dir, name+".1", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, io.NewSectionReader(from, max(0, st.Size()-2*maxLog), 2*maxLog))
	return errors.Join(err, to.Close(), from.Truncate(0))
}

// Logs implements [driver.LogSource]. Service "init" is PID 1 of the node; node
// "environment" has the services "supervisor" and "registry"; "audit" of a server is what its API
// server was asked.
func (d *Driver) Logs(ctx context.Context, node, service string, follow bool, w io.Writer) error {
	path := d.paths.nodeLog(filepath.Base(node), filepath.Base(service))
	dir, name := filepath.Split(path)
	switch {
	case node == "environment":
		dir, name = filepath.Split(d.paths.log(filepath.Base(service)))
	case service == auditService: // the node may have put links in between
		dir, name = d.paths.node(filepath.Base(node)), strings.TrimPrefix(auditLog, "/")
	}
	f, err := beneath.Open(dir, name, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no log of %s/%s: %s", node, service, d.logNames(node))
	}
	if err != nil {
		return fmt.Errorf("log of %s/%s: %w", node, service, err)
	}
	defer f.Close()
	tick := time.NewTicker(150 * time.Millisecond)
	defer tick.Stop()
	var at int64
	for {
		n, err := io.Copy(w, f)
		if err != nil {
			return err
		}
		if at += n; !follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if st, err := f.Stat(); err == nil && st.Size() < at { // rotated
			if at, err = f.Seek(0, io.SeekStart); err != nil {
				return err
			}
		}
	}
}

// logNames says what logs there are, for a person who asked for another.
func (d *Driver) logNames(node string) string {
	dir := filepath.Dir(d.paths.nodeLog(filepath.Base(node), "x"))
	if node == "environment" {
		dir = d.paths.join("log")
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	if len(files) == 0 {
		return "there is no such node, or it never ran; see 'orrery node list'"
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(filepath.Base(f), ".log")
	}
	if exists(filepath.Join(d.paths.node(filepath.Base(node)), auditFolder)) {
		files = append(files, auditService)
	}
	return "there are " + strings.Join(files, ", ")
}

// tail is the end of a file, for an error message.
func tail(path string, bytes int64) string {
	f, err := beneath.Open(filepath.Dir(path), filepath.Base(path), os.O_RDONLY, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > bytes {
		_, _ = f.Seek(-bytes, io.SeekEnd)
	}
	b, _ := io.ReadAll(io.LimitReader(f, bytes))
	return strings.TrimSpace(string(b))
}
