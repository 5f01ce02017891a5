package k3d

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver/k3d/contract"
	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/mirror/store"
)

// Mirror implements [driver.Mirrored].
func (d *Driver) Mirror() mirror.Mirror {
	return mirror.Mirror{Address: fmt.Sprintf("127.0.0.1:%d", d.Spec.Ports.Registry), PasswordFile: d.passwordFile()}
}

// MirrorInside implements [driver.Mirrored].
func (d *Driver) MirrorInside() string {
	return fmt.Sprintf("%s:%d", mirrorAddress(d.Spec), contract.MirrorPort)
}

// PruneMirror implements [driver.Mirrored].
func (d *Driver) PruneMirror(ctx context.Context, inUse []string, dryRun bool) (gone store.Pruned, err error) {
	if err := d.askMirror(ctx, contract.PrunePath, contract.Pruning{InUse: inUse, DryRun: dryRun}, &gone); err != nil {
		return gone, fmt.Errorf("prune the mirror of environment %q: %w", d.Spec.Name, err)
	}
	return gone, nil
}

// MendMirror implements [driver.Mirrored].
func (d *Driver) MendMirror(ctx context.Context, digests []string) (removed []string, err error) {
	if err := d.askMirror(ctx, contract.MendPath, digests, &removed); err != nil {
		return removed, fmt.Errorf("mend the mirror of environment %q: %w", d.Spec.Name, err)
	}
	return removed, nil
}

// askMirror has the mirror's container do something to its folder.
func (d *Driver) askMirror(ctx context.Context, path string, ask, into any) error {
	body, err := json.Marshal(ask)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+d.Mirror().Address+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if err := d.Mirror().Authorize(req); err != nil {
		return err
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(io.LimitReader(r.Body, 16<<20))
	if err != nil {
		return err
	}
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", r.Status, strings.TrimSpace(string(b)))
	}
	return json.Unmarshal(b, into)
}

func (d *Driver) startMirror(ctx context.Context, m memory) error {
	s, err := d.look(ctx, m.ID)
	if err != nil {
		return err
	}
	if s.mirror == nil {
		i, err := helperImage("mirror", runtime.GOARCH, d.Dist().Program("k3s"), d.Dist().Program("registry"))
		if err != nil {
			return err
		}
		tag, err := d.engine.load(ctx, i)
		if err != nil {
			return err
		}
		name, port := mirrorName(d.Spec.Name), fmt.Sprintf("%d/tcp", contract.MirrorPort)
		if err := d.engine.call(ctx, http.MethodPost, "/containers/create?name="+name, object{
			"Image": tag, "Hostname": name, "ExposedPorts": object{port: object{}},
			"Env":    []string{contract.MirrorPassword + "=" + m.Password, contract.MirrorNames + "=" + name + "," + mirrorAddress(d.Spec).String()},
			"Labels": object{labelEnvironment: d.Spec.Name, labelID: m.ID},
			"HostConfig": object{
				"PortBindings":  object{port: []object{{"HostIp": "127.0.0.1", "HostPort": fmt.Sprint(d.Spec.Ports.Registry)}}},
				"RestartPolicy": object{"Name": "unless-stopped"}, "Init": true,
			},
		}, nil); err != nil {
			return fmt.Errorf("make the mirror's container %s: %w", name, err)
		}
	}
	if s.mirror == nil || s.mirror.State != "running" {
		if err := d.engine.post(ctx, "/containers/"+mirrorName(d.Spec.Name)+"/start"); err != nil {
			err = fmt.Errorf("start the mirror on 127.0.0.1:%d: %w", d.Spec.Ports.Registry, err)
			if strings.Contains(err.Error(), "in use") || strings.Contains(err.Error(), "already allocated") {
				err = fmt.Errorf("%w; end what holds the port or set another ports.registry in orrery.yaml", err)
			}
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, max(time.Minute, d.Timeout))
	defer cancel()
	return check.Until(ctx, check.Pause{First: 50 * time.Millisecond, Most: time.Second}, func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.Mirror().Address+"/v2/", nil)
		if err != nil {
			return err
		}
		if err := d.Mirror().Authorize(req); err != nil {
			return err
		}
		r, err := http.DefaultClient.Do(req)
		if err != nil {
			return fmt.Errorf("the registry mirror does not answer: %w", err)
		}
		r.Body.Close()
		if r.StatusCode != http.StatusOK {
			return fmt.Errorf("the registry mirror answers %s", r.Status)
		}
		return nil
	})
}
