package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/spec"
)

// stateVersion of environment.json. A newer one is refused. Version 2 has Bundle, version 3 a
// choice of network plugins, version 4 causes instead of reasons in words, version 5 other
// drivers, version 6 profiles; what does not need them is still written as version 1, so that an older orrery can
// read it.
const stateVersion = 6

// stateFile is the name below the state directory.
const stateFile = "environment.json"

// State is what an environment was made with: what reality cannot tell.
type State struct {
	Version int              `json:"version"`
	Spec    spec.Environment `json:"spec"`
	Created time.Time        `json:"created"`
	// Ports that are kept for the environment's life; those of the spec may say 0.
	Ports spec.Ports `json:"ports"`
	// Bundle is the digest ("sha256:…") of the bundle that the environment was made from;
	// empty when it was made from a repository.
	Bundle string `json:"bundle,omitempty"`
	// Skipped are the components that the last `up` had to leave out.
	Skipped map[string]plan.Cause `json:"skipped,omitempty"`
	// NetworkReason is why network.plugin auto became what Spec says; empty when there was
	// nothing in the way of the preferred one.
	NetworkReason string `json:"networkReason,omitempty"`
}

// ErrNoState is wrapped by [LoadState] when the environment has none.
var ErrNoState = errors.New("no such environment")

// LoadState reads <stateDir>/environment.json. It wraps [ErrNoState] when there is none
// and [ErrNewer] when a newer orrery wrote it.
func LoadState(stateDir string) (State, error) {
	path := filepath.Join(stateDir, stateFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, fmt.Errorf("%s: %w", path, ErrNoState)
	}
	if err != nil {
		return State{}, fmt.Errorf("reading the environment's state: %w", err)
	}
	// The version first: a newer file may hold what this one cannot decode.
	var v struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return State{}, corrupt(path, err)
	}
	if v.Version > stateVersion {
		return State{}, fmt.Errorf("%s has version %d, this orrery reads up to %d: %w; use that one,"+
			" also for `orrery down`", path, v.Version, stateVersion, ErrNewer)
	}
	if v.Version < 1 {
		return State{}, corrupt(path, errors.New("it has no version"))
	}
	var s State
	if data, err = withCauses(data, v.Version); err == nil {
		err = strict(data, &s)
	}
	if err != nil {
		return State{}, corrupt(path, err)
	}
	if s.Spec.Images.Verify == "" { // written before there was the choice
		s.Spec.Images.Verify = spec.Default().Images.Verify
	}
	if err := s.Spec.Validate(); err != nil {
		return State{}, corrupt(path, err)
	}
	return s, nil
}

// withCauses brings the reasons of versions before 4 into today's form.
func withCauses(data []byte, version int) ([]byte, error) {
	if version >= 4 {
		return data, nil
	}
	var file map[string]json.RawMessage
	if err := json.Unmarshal(data, &file); err != nil || file["skipped"] == nil {
		return data, err
	}
	var reasons map[string]string
	if err := json.Unmarshal(file["skipped"], &reasons); err != nil {
		return data, err
	}
	causes := map[string]plan.Cause{}
	for component, reason := range reasons {
		causes[component] = plan.Cause{Kind: plan.CauseOther, Root: reason}
	}
	var err error
	if file["skipped"], err = json.Marshal(causes); err != nil {
		return data, err
	}
	return json.Marshal(file)
}

func corrupt(path string, err error) error {
	return fmt.Errorf("%s is damaged: %w; `orrery down` removes the environment"+
		" (its journal and the audit do not need this file), then `orrery up` makes it anew", path, err)
}

// Save writes <stateDir>/environment.json: the old content or the new one is there
// after a crash, never half of it.
func (s State) Save(stateDir string) error {
	s.Version = 1
	switch {
	case s.Spec.Profile != "":
		s.Version = 6
	case s.Spec.Driver != spec.Default().Driver:
		s.Version = 5
	case len(s.Skipped) > 0:
		s.Version = 4
	case s.NetworkReason != "" || s.Spec.Network.Plugin != spec.PluginPTP:
		s.Version = 3
	case s.Bundle != "":
		s.Version = 2
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the environment's state: %w", err)
	}
	if err := makeDir(stateDir); err != nil {
		return fmt.Errorf("making the state directory: %w", err)
	}
	if err := writeFile(filepath.Join(stateDir, stateFile), append(data, '\n')); err != nil {
		return fmt.Errorf("writing the environment's state: %w", err)
	}
	return nil
}

// writeFile replaces path by data; its name survives a crash too.
func writeFile(path string, data []byte) error {
	if err := atomicfile.Write(path, data, 0o600); err != nil {
		return err
	}
	return disk.Sync(filepath.Dir(path))
}

// makeDir makes dir, and its entry in the folder above survives a crash.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return disk.Sync(filepath.Dir(dir))
}
