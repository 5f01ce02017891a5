package keeper

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/hashicorp/vault/api"
)

// apply makes Vault have what d says.
func apply(ctx context.Context, c *api.Client, d Desired) error {
	for _, part := range []struct {
		path  string
		wants map[string]Engine
	}{{"sys/audit", d.Audit}, {"sys/auth", d.Auth}, {"sys/mounts", d.Mounts}} {
		if err := engines(ctx, c, part.path, part.wants); err != nil {
			return err
		}
	}
	accessors, err := accessors(ctx, c)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(d.Policies)) {
		if err := policy(ctx, c, name, accessors.Replace(d.Policies[name])); err != nil {
			return err
		}
	}
	// One that fails, for what it is about is away, does not keep the others from being made.
	var failed error
	for _, w := range d.Write {
		failed = errors.Join(failed, write(ctx, c, w))
	}
	return failed
}

func write(ctx context.Context, c *api.Client, w Write) error {
	if w.Unless != "" {
		s, err := c.Logical().ReadWithContext(ctx, w.Unless)
		// pki says 400 of an authority that it does not have yet.
		if err != nil && !isStatus(err, http.StatusNotFound) && !isStatus(err, http.StatusBadRequest) {
			return fmt.Errorf("read %s: %w", w.Unless, err)
		}
		if s != nil {
			return nil
		}
	}
	if _, err := c.Logical().WriteWithContext(ctx, w.Path, w.Data); err != nil {
		return fmt.Errorf("write %s: %w", w.Path, err)
	}
	return nil
}

// engines enables what is not there. What is there with another type is refused: changing it
// would delete its data.
func engines(ctx context.Context, c *api.Client, path string, wants map[string]Engine) error {
	s, err := c.Logical().ReadWithContext(ctx, path)
	if err != nil {
		return fmt.Errorf("list %s: %w", path, err)
	}
	for _, name := range slices.Sorted(maps.Keys(wants)) {
		want := wants[name]
		has, _ := s.Data[name+"/"].(map[string]any)
		if has == nil {
			if _, err := c.Logical().WriteWithContext(ctx, path+"/"+name, map[string]any{
				"type": want.Type, "description": want.Description, "options": want.Options, "config": want.Config,
			}); err != nil {
				return fmt.Errorf("enable %s/%s: %w", path, name, err)
			}
			continue
		}
		if has["type"] != want.Type {
			return fmt.Errorf("%s/%s is of type %v, and should be %s: disable it, with all its data, or choose another path",
				path, name, has["type"], want.Type)
		}
		if path != "sys/audit" && len(want.Config) > 0 {
			if _, err := c.Logical().WriteWithContext(ctx, path+"/"+name+"/tune", want.Config); err != nil {
				return fmt.Errorf("tune %s/%s: %w", path, name, err)
			}
		}
	}
	return nil
}

// accessors puts the accessors of ways to log in where policies name them: ACCESSOR(PATH). They are
// made up by Vault, and what a policy says of an identity needs them.
func accessors(ctx context.Context, c *api.Client) (*strings.Replacer, error) {
	s, err := c.Logical().ReadWithContext(ctx, "sys/auth")
	if err != nil {
		return nil, fmt.Errorf("list sys/auth: %w", err)
	}
	var pairs []string
	for path, v := range s.Data {
		if entry, ok := v.(map[string]any); ok {
			pairs = append(pairs, "ACCESSOR("+strings.TrimSuffix(path, "/")+")", fmt.Sprint(entry["accessor"]))
		}
	}
	return strings.NewReplacer(pairs...), nil
}

func policy(ctx context.Context, c *api.Client, name, text string) error {
	path := "sys/policies/acl/" + name
	s, err := c.Logical().ReadWithContext(ctx, path)
	if err != nil {
		return fmt.Errorf("read policy %s: %w", name, err)
	}
	if s != nil && reflect.DeepEqual(s.Data["policy"], text) {
		return nil
	}
	if _, err := c.Logical().WriteWithContext(ctx, path, map[string]any{"policy": text}); err != nil {
		return fmt.Errorf("write policy %s: %w", name, err)
	}
	return nil
}

func isStatus(err error, status int) bool {
	e, ok := errors.AsType[*api.ResponseError](err)
	return ok && e.StatusCode == status
}

// denied says whether Vault knows the token and refuses, or does not know it any more.
func denied(err error) bool {
	return isStatus(err, http.StatusForbidden) ||
		isStatus(err, http.StatusBadRequest) && strings.Contains(err.Error(), "token")
}
