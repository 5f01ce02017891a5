package environment

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/secrets"
	"github.com/orrery-dev/orrery/internal/ui"
)

// secretValues are those of infra/secrets/data.yaml, decrypted once. They are in memory only.
type secretValues struct {
	once   sync.Once
	values secrets.Values
	noKey  error
	err    error
}

// secretValues are the values that the repository has for Secrets; none where it has no file, or this machine no key.
func (e *Environment) secretValues() (map[string]map[string][]byte, error) {
	s := e.secrets
	s.once.Do(func() {
		root, err := e.Location.Root()
		if err != nil || !secrets.Exists(root) {
			return // without a catalogue nothing is deployed
		}
		keys, _, err := secrets.Keys(root, os.Getenv)
		if errors.Is(err, secrets.ErrNoKey) {
			s.noKey = err
			return
		}
		if err == nil {
			var f *secrets.File
			if f, err = secrets.Open(filepath.Join(root, filepath.FromSlash(secrets.DataFile)), keys); err == nil {
				s.values, err = f.Values()
			}
		}
		if err != nil {
			s.err = failure.Refused{Err: fmt.Errorf("secrets of the repository: %w\n  nothing was applied; 'orrery secrets check' looks at all of them", err)}
		}
	})
	return s.values, s.err
}

// tellSecrets refuses what cannot be decrypted and should be, and says where values come from that
// a person may be surprised by.
func (p *Platform) tellSecrets() error {
	values, err := p.secretValues()
	if err != nil {
		return err
	}
	note := func(format string, a ...any) {
		p.sink.Emit(ui.Event{Type: ui.TypeNotice, Phase: plan.PhaseDeploy, Message: fmt.Sprintf(format, a...)})
	}
	if p.secrets.noKey != nil {
		note("%s is not decrypted, since there is no age key here: credentials are generated for this environment alone", secrets.DataFile)
		return nil
	}
	var unused []string
	for _, name := range secrets.Values(values).Names() {
		if !p.declares(name) {
			unused = append(unused, name)
		}
	}
	if len(unused) > 0 && p.selection.Prune {
		note("%s: no component that is deployed has the Secret %s", secrets.DataFile, strings.Join(unused, ", "))
	}
	return nil
}

// declares: a selected component has the Secret, NAMESPACE/NAME.
func (p *Platform) declares(name string) bool {
	for _, c := range p.Components {
		for _, s := range c.Secrets {
			namespace := s.Namespace
			if namespace == "" {
				namespace = c.Namespace
			}
			if namespace+"/"+s.Name == name {
				return true
			}
		}
	}
	return false
}
