package environment

// What an audit sees of this machine: the processes and files of its nodes, and the state folder.

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"sigs.k8s.io/yaml"

	"github.com/orrery-dev/orrery/internal/audit"
	"github.com/orrery-dev/orrery/internal/beneath"
	"github.com/orrery-dev/orrery/internal/driver"
)

// auditFileLimit is how much is read of a file, in bytes, and auditFiles how many of a node.
const (
	auditFileLimit = 4 << 20
	auditFiles     = 500
)

// processes are looked at where they run: their command lines, and the files of their nodes.
func (g *gathering) processes(obs driver.Observation) {
	found, missed := map[string]bool{}, []string{}
	for _, n := range obs.Nodes {
		looked := false
		for _, s := range n.Services {
			if s.PID == 0 {
				continue
			}
			proc := fmt.Sprintf("/proc/%d", s.PID)
			line, err := os.ReadFile(proc + "/cmdline")
			if err == nil && len(line) == 0 {
				err = fmt.Errorf("%s of %s is only starting, or has ended", s.Name, n.Name)
			}
			if err != nil {
				missed = append(missed, err.Error())
				continue
			}
			args := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
			p := audit.Process{Node: n.Name, Name: s.Name, Args: args, Configs: map[string]map[string]any{}}
			for _, flag := range []string{"authentication-config", "encryption-provider-config"} {
				if file := valueOf(p.Args, flag); file != "" {
					p.Configs[flag] = configOf(flag, filepath.Join(proc, "root"), file)
				}
			}
			g.Processes = append(g.Processes, p)
			found[s.Name] = true
			if !looked {
				looked = true
				g.nodeFiles(n.Name, proc+"/root")
			}
		}
		if !looked {
			why := "nothing of node " + n.Name + " runs, or can be seen: root sees it"
			missed = append(missed, why)
			g.partly(why, audit.PartFiles)
			if n.Role == driver.RoleServer {
				g.partly(why, controlPlane...)
			}
		}
	}
	if len(g.Files) == 0 {
		g.Missing[audit.PartFiles] = "no file of a node could be looked at: " + strings.Join(missed, "; ")
	}
	for _, part := range controlPlane {
		if !found[part] {
			g.Missing[part] = "no process of it could be looked at: " + strings.Join(missed, "; ")
		}
	}
}

// partly: not all of these parts was seen.
func (g *gathering) partly(why string, parts ...string) {
	if g.Partly == nil {
		g.Partly = map[string]string{}
	}
	for _, part := range parts {
		g.Partly[part] = strings.TrimPrefix(g.Partly[part]+"; "+why, "; ")
	}
}

func valueOf(args []string, flag string) string {
	for _, a := range args {
		if v, ok := strings.CutPrefix(a, "--"+flag+"="); ok {
			return v
		}
	}
	return ""
}

// configOf reads a file of a node. Of the one with the keys of encryption only the names of the
// ciphers are taken.
func configOf(flag, root, file string) map[string]any {
	b, err := readBeneath(root, file)
	if err != nil {
		return nil
	}
	var all map[string]any
	if yaml.Unmarshal(b, &all) != nil {
		return nil
	}
	if flag != "encryption-provider-config" {
		return all
	}
	var config struct {
		Resources []struct {
			Providers []map[string]any `json:"providers"`
		} `json:"resources"`
	}
	if yaml.Unmarshal(b, &config) != nil {
		return nil
	}
	var first []string
	for _, r := range config.Resources {
		if len(r.Providers) > 0 {
			first = append(first, slices.Sorted(maps.Keys(r.Providers[0]))...)
		}
	}
	slices.Sort(first)
	return map[string]any{"firstProvider": strings.Join(slices.Compact(first), ",")}
}

// readBeneath follows no link that a node laid.
func readBeneath(root, file string) ([]byte, error) {
	f, err := beneath.Open(root, file, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, auditFileLimit))
}

// nodeFiles are configuration and keys of a node. Its root is the node's to write.
func (g *gathering) nodeFiles(node, root string) {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return
	}
	defer dir.Close()
	for _, below := range []string{"etc/kubernetes", "etc/containerd", "etc/cni"} {
		left := auditFiles
		_ = fs.WalkDir(dir.FS(), below, func(path string, d fs.DirEntry, err error) error {
			if left--; left < 0 {
				g.partly(fmt.Sprintf("node %s has more than %d files in %s", node, auditFiles, below), audit.PartFiles)
				return fs.SkipAll
			}
			if err != nil || !d.Type().IsRegular() {
				return nil
			}
			info, err := d.Info()
			if err != nil {
				return nil
			}
			b, err := readBeneath(root, path)
			if err != nil {
				return nil
			}
			f := fileOf(node+"/"+path, info, string(b))
			g.Files = append(g.Files, f)
			g.certificates("file/"+f.Path, b)
			return nil
		})
	}
	// Nodes in containers have these behind links, and no link of a node is followed.
	for _, place := range []string{"etc/kubernetes", "etc/containerd", "etc/cni", "var/lib/etcd"} {
		if info, err := dir.Lstat(place); err == nil && info.Mode().Type() == fs.ModeSymlink {
			g.partly(fmt.Sprintf("%s of node %s is a link", place, node), audit.PartFiles)
		}
	}
	if info, err := dir.Lstat("var/lib/etcd"); err == nil && info.IsDir() {
		f := fileOf(node+"/var/lib/etcd", info, "")
		f.Key = true // all Secrets are in there
		g.Files = append(g.Files, f)
	}
}

func fileOf(path string, info fs.FileInfo, text string) audit.File {
	f := audit.File{Path: path, Mode: uint32(info.Mode().Perm())}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		f.UID = int(st.Uid)
	}
	f.Key = strings.Contains(text, "PRIVATE KEY-----") || strings.Contains(text, "client-key-data:") ||
		strings.Contains(text, "kind: EncryptionConfiguration")
	return f
}

// stateFolder: keys are for their owner, logs and records hold none.
func (g *gathering) stateFolder(dir string) {
	if dir == "" {
		g.Missing[audit.PartState] = "there is no state folder"
		return
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		rel, relErr := filepath.Rel(dir, path)
		if err != nil || relErr != nil {
			if rel == "." {
				return err
			}
			return nil
		}
		if d.IsDir() && (d.Name() == "var" || rel == "registry" || rel == "layers" || rel == "dist") {
			return fs.SkipDir // data of nodes, images and programs
		}
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		b, err := readBeneath(dir, rel)
		if err != nil {
			return nil
		}
		f := fileOf(rel, info, string(b))
		f.Key = f.Key || strings.Contains(rel, "password") || strings.HasSuffix(rel, ".key")
		switch filepath.Ext(rel) {
		case ".log", ".jsonl", ".txt":
			f.Log = true
			f.Secrets = g.secretsOf(dir, rel, info.Size())
		}
		g.State = append(g.State, f)
		if strings.HasSuffix(rel, ".crt") {
			g.certificates("state/"+rel, b)
		}
		return nil
	})
	if err != nil {
		g.Missing[audit.PartState] = err.Error()
	}
}

// secretsOf is secretsIn for all of a file, however long: size bounds what its writer adds meanwhile.
func (g *gathering) secretsOf(dir, file string, size int64) []string {
	f, err := beneath.Open(dir, file, os.O_RDONLY, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	overlap := 0
	for _, values := range g.secrets {
		for _, v := range values {
			overlap = max(overlap, len(v))
		}
	}
	var names []string
	window, kept := make([]byte, min(size, auditFileLimit)+int64(overlap)+1), 0
	for left := io.LimitReader(f, size); ; {
		n, err := io.ReadFull(left, window[kept:])
		text := window[:kept+n]
		names = append(names, g.secretsIn(string(text))...)
		if err != nil {
			slices.Sort(names)
			return slices.Compact(names)
		}
		kept = copy(window, text[len(text)-overlap:])
	}
}
