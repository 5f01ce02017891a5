package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/sign"
)

// signing measures, in this process and against the mirror of a running environment, what a
// warm `up` does about signatures, and what is done once for each image.
func (b *bench) signing(ctx context.Context, e env, r *report) error {
	to, err := b.mirror(ctx, e)
	if err != nil {
		return err
	}
	l, err := lock.Load(filepath.Join(b.repo, lock.FileName))
	if err != nil {
		return err
	}
	locked := l.Platforms[build.Platform()]
	own, err := sign.LoadPublicKey(filepath.Join(b.dir, "state", e.name, "signing", sign.PublicFile))
	if err != nil {
		return err
	}
	policy := sign.Policy{Keys: []sign.PublicKey{own}, Locked: &locked}
	// The whole way, by the verb that does what a first `up` does for each image.
	var whole []float64
	var slowest string
	for range b.runs {
		var rows []struct {
			Image   string  `json:"image"`
			Seconds float64 `json:"seconds"`
		}
		out, err := b.output1(ctx, e, "images", "sign", "-o", "json")
		if err == nil {
			err = json.Unmarshal(out, &rows)
		}
		if err != nil {
			return err
		}
		worst := 0.0
		for _, row := range rows {
			if row.Seconds > worst {
				worst, slowest = row.Seconds, row.Image
			}
		}
		whole = append(whole, worst)
	}
	var largest string
	var size int
	docs := map[string]sign.Documents{}
	for name := range locked.Images {
		var d sign.Documents
		if d.SBOM, err = b.output1(ctx, e, "images", "sbom", name); err != nil {
			return err
		}
		if d.Provenance, err = b.output1(ctx, e, "images", "provenance", name); err != nil {
			return err
		}
		docs[name] = d
		if len(d.SBOM) > size {
			largest, size = name, len(d.SBOM)
		}
	}
	var check, attach []float64
	for range b.runs {
		start := time.Now()
		g, ctx := errgroup.WithContext(ctx)
		for name, i := range locked.Images {
			g.Go(func() error {
				_, err := sign.Verify(ctx, to, name, i.Digest, policy)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		check = append(check, time.Since(start).Seconds())
	}
	for range b.runs {
		dir, err := os.MkdirTemp(b.dir, "key")
		if err != nil {
			return err
		}
		key, err := sign.EnsureKey(ctx, dir, sign.Passwords{Given: "bench"})
		if err != nil {
			return err
		}
		start := time.Now()
		if err := sign.Attach(ctx, to, largest, locked.Images[largest].Digest, key, docs[largest]); err != nil {
			return err
		}
		attach = append(attach, time.Since(start).Seconds())
	}
	r.add("signatures and documents of all images", "s", 0.3, fmt.Sprintf("%d images read back and verified, in one process", len(locked.Images)), check...)
	r.add("sign and attach, one image", "s", 0.2, fmt.Sprintf("%s, SBOM of %d kB; the key is opened", largest, size/1000), attach...)
	r.add("SBOM, provenance and signature, one image", "s", 0.2, fmt.Sprintf("the slowest of all, %s; made anew, signed and attached", slowest), whole...)
	return nil
}

// mirror is the environment's registry, with what it takes to push.
func (b *bench) mirror(ctx context.Context, e env) (mirror.Mirror, error) {
	var status struct {
		Endpoints map[string]string `json:"endpoints"`
	}
	out, err := b.output1(ctx, e, "status", "-o", "json")
	if err == nil {
		err = json.Unmarshal(out, &status)
	}
	if err == nil && status.Endpoints["registry"] == "" {
		err = fmt.Errorf("status names no registry")
	}
	return mirror.Mirror{
		Address:      status.Endpoints["registry"],
		PasswordFile: filepath.Join(b.dir, "state", e.name, "pki", "mirror-password"),
	}, err
}
