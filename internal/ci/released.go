package ci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// scanReleased looks for vulnerabilities that became known since in what people download: the newest release.
// Its programs have no symbols, so all that a module has counts, called or not.
func scanReleased(ctx context.Context, r *Runner) error {
	if _, err := exec.LookPath("gh"); err != nil {
		return Skip{"gh is not on PATH"}
	}
	l := &release{Runner: r}
	out, err := l.gh(ctx, "release", "view", "--json", "tagName")
	if err != nil {
		if strings.Contains(err.Error(), "not found") {
			return Skip{"nothing has been released yet"}
		}
		return skipf("GitHub cannot be asked: %s", lastLine(err.Error()))
	}
	var newest struct {
		TagName string `json:"tagName"`
	}
	if err := json.Unmarshal(out, &newest); err != nil || newest.TagName == "" {
		return errors.Join(fmt.Errorf("gh release view named no tag: %s", out), err)
	}
	dir, err := os.MkdirTemp("", "orrery-released-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if _, err := l.gh(ctx, "release", "download", newest.TagName, "--dir", dir); err != nil {
		return err
	}
	if err := checkSums(dir); err != nil {
		return fmt.Errorf("what GitHub gives of %s is not what was released: %w", newest.TagName, err)
	}
	scanned := 0
	for _, t := range targets {
		file := filepath.Join(dir, t.file())
		if _, err := os.Stat(file); err != nil {
			continue
		}
		scanned++
		l.say("== %s %s", newest.TagName, t.file())
		if err := r.vulnerabilities(ctx, r.Root, "-mode=binary", file); err != nil {
			return fmt.Errorf("%s of %s: %w", t.file(), newest.TagName, err)
		}
	}
	if scanned == 0 {
		return fmt.Errorf("%s has none of our programs", newest.TagName)
	}
	return nil
}
