package native

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// lasting are the files of pki that are made once. All else there can be issued again; without
// these, or with others in their place, what the environment holds cannot be read, or nobody
// who was let in before is let in again.
var lasting = []struct {
	name  string
	needs string // why another one will not do
	copy  string // in the pki folder of a server; "" when there is none
	later bool   // environments from before it was thought of have none, and get one
}{
	{"ca.key", "all certificates and handed out kubeconfigs hang on it", "", false},
	{"ca.crt", "all certificates and handed out kubeconfigs hang on it", "ca.crt", false},
	{"etcd-ca.key", "the members of etcd know each other by it", "", false},
	{"etcd-ca.crt", "the members of etcd know each other by it", "etcd-ca.crt", false},
	{"front-proxy-ca.key", "extension API servers know the API server by it", "", false},
	{"front-proxy-ca.crt", "extension API servers know the API server by it", "front-proxy-ca.crt", false},
	{"clients-ca.key", "what it signed for clients of the API is let in no more", "clients-ca.key", true},
	{"clients-ca.crt", "what it signed for clients of the API is let in no more", "clients-ca.crt", true},
	{"sa.key", "the tokens of all service accounts are signed with it", "sa.key", false},
	{keyringFile, "what is in etcd is encrypted with it", atRestConfig, false},
}

// LostKeysError says which keys of an environment are gone that its data needs.
type LostKeysError struct {
	Environment string
	Keys        []string // paths
	lines       []string
}

func (e *LostKeysError) Error() string {
	return fmt.Sprintf(
		"keys of environment %q are not there, and what it holds needs them; nothing was changed:\n  %s\n  where there is no other way, 'orrery down' and 'orrery up' make the environment anew, without its data",
		e.Environment,
		strings.Join(e.lines, "\n  "),
	)
}

// lostKeys looks for what is made once in an environment that was made: a key that is gone must
// not be replaced silently, nor one that is not the one that the servers work with.
func lostKeys(p paths, c cluster) error {
	if !p.made(c) {
		return nil
	}
	lost := &LostKeysError{Environment: c.Environment}
	for _, l := range lasting {
		file := p.pki(l.name)
		have, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		from, kept := p.keptCopy(c, l.copy)
		problem := ""
		switch {
		case err != nil && l.later && from == "":
			continue
		case err != nil:
			problem = "is gone"
		case from != "" && !sameKey(l.name, have, kept):
			problem = "is not the one that the servers have"
		default:
			continue
		}
		way := "restore it from a backup"
		if from != "" {
			way = fmt.Sprintf("restore it: cp %s %s", from, file)
			if l.name == keyringFile {
				way = fmt.Sprintf("restore it: sed -n 's/^ *- name: //p; s/^ *secret: //p' %s | paste -d ' ' - - > %s", from, file)
			}
		}
		lost.Keys = append(lost.Keys, file)
		lost.lines = append(lost.lines, fmt.Sprintf("%s %s: %s; %s", file, problem, l.needs, way))
	}
	if len(lost.Keys) > 0 {
		return lost
	}
	return nil
}

// made: all keys were made before. cluster.json is written after them.
func (p paths) made(c cluster) bool {
	made := exists(p.cluster())
	for _, n := range c.servers() {
		made = made || exists(p.etcd(n))
	}
	return made
}

// sameKey: what was kept is of the same key. While keys are exchanged a server may have fewer.
func sameKey(name string, have, kept []byte) bool {
	if name != keyringFile {
		return bytes.Equal(bytes.TrimSpace(have), bytes.TrimSpace(kept))
	}
	ours, err := parseKeyring(name, have)
	return err == nil && ours.covers(configuredKeys(kept))
}

// keptCopy is what a server has of a lasting file, and where; from is "" when none has it.
func (p paths) keptCopy(c cluster, name string) (from string, content []byte) {
	if name == "" {
		return "", nil
	}
	for _, n := range c.servers() {
		at := p.nodeEtc(n.Name, "kubernetes", "pki", name)
		b, err := os.ReadFile(at)
		if err != nil {
			continue
		}
		if name != atRestConfig || configuredKeys(b) != nil {
			return at, b
		}
	}
	return "", nil
}
