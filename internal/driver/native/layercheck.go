package native

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/orrery-dev/orrery/internal/check"
)

// checkLayers looks at what nodes share of images. Nothing here keeps up from going on:
// what is damaged is replaced at the next start.
func (d *Driver) checkLayers(context.Context) check.Result {
	entries, err := os.ReadDir(d.paths.layers())
	if errors.Is(err, fs.ErrNotExist) {
		return check.OK("nodes will share what they unpack")
	}
	if err != nil {
		return check.Skip("shared layers cannot be read: %v", err)
	}
	var problems []string
	good := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if _, _, err := d.paths.checkLayer("sha256:" + e.Name()); err != nil {
			problems = append(problems, fmt.Sprintf("%.12s: %v", e.Name(), err))
			continue
		}
		good++
	}
	for _, n := range d.cluster.Nodes {
		dir := filepath.Join(d.paths.node(n.Name), "var")
		if a, b := device(d.paths.layers()), device(dir); b != 0 && a != b {
			problems = append(problems, fmt.Sprintf("%s is on another file system than %s: that node keeps copies", dir, d.paths.layers()))
		}
	}
	if len(problems) > 0 {
		return check.Skip("shared layers: %s; 'orrery stop' and 'orrery start' replace what is damaged", strings.Join(problems, "; "))
	}
	return check.OK("%d layers are shared by the nodes, unchanged since they were verified", good)
}

// device of the file system that path is on; 0 when it is not there.
func device(path string) uint64 {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return 0
	}
	return st.Dev
}
