package scylla

import (
	"context"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	rolePrefix = "role/"
	nameMark   = "{{name}}"
)

// role is what a credential may do, and for how long.
type role struct {
	Statements []string      `json:"statements"`
	TTL        time.Duration `json:"ttl"`
	MaxTTL     time.Duration `json:"max_ttl"`
}

func loadRole(ctx context.Context, s logical.Storage, name string) (*role, error) {
	entry, err := s.Get(ctx, rolePrefix+name)
	if err != nil || entry == nil {
		return nil, err
	}
	var r role
	return &r, entry.DecodeJSON(&r)
}

func (b *backend) rolePath() *framework.Path {
	return &framework.Path{
		Pattern:      "roles/" + framework.GenericNameRegex("name"),
		HelpSynopsis: "What credentials may do, and how long they live.",
		Fields: map[string]*framework.FieldSchema{
			"name": {Type: framework.TypeLowerCaseString, Description: "Name of the role."},
			"statements": {Type: framework.TypeStringSlice,
				Description: `CQL after the role was made, such as GRANT SELECT ON KEYSPACE shop TO "{{name}}".`},
			"ttl":     {Type: framework.TypeDurationSecond, Description: "Of a lease, and of each renewal."},
			"max_ttl": {Type: framework.TypeDurationSecond, Description: "Of a lease with all its renewals."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   &framework.PathOperation{Callback: b.readRole},
			logical.UpdateOperation: &framework.PathOperation{Callback: b.writeRole},
			logical.DeleteOperation: &framework.PathOperation{Callback: b.deleteRole},
		},
	}
}

func (b *backend) rolesPath() *framework.Path {
	return &framework.Path{
		Pattern:      "roles/?$",
		HelpSynopsis: "The names of the roles.",
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: &framework.PathOperation{
				Callback: func(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
					names, err := req.Storage.List(ctx, rolePrefix)
					return logical.ListResponse(names), err
				},
			},
		},
	}
}

func (b *backend) readRole(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r, err := loadRole(ctx, req.Storage, d.Get("name").(string))
	if err != nil || r == nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		"statements": r.Statements, "ttl": int64(r.TTL.Seconds()), "max_ttl": int64(r.MaxTTL.Seconds()),
	}}, nil
}

func (b *backend) writeRole(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r := &role{
		Statements: d.Get("statements").([]string),
		TTL:        time.Duration(d.Get("ttl").(int)) * time.Second, MaxTTL: time.Duration(d.Get("max_ttl").(int)) * time.Second,
	}
	if len(r.Statements) == 0 {
		return logical.ErrorResponse("statements are needed: a role without any may do nothing"), nil
	}
	for _, s := range r.Statements {
		if !strings.Contains(s, nameMark) {
			return logical.ErrorResponse("statement %q does not name its role with %s", s, nameMark), nil
		}
	}
	if r.MaxTTL > 0 && r.TTL > r.MaxTTL {
		return logical.ErrorResponse("ttl is longer than max_ttl"), nil
	}
	entry, err := logical.StorageEntryJSON(rolePrefix+d.Get("name").(string), r)
	if err != nil {
		return nil, err
	}
	return nil, req.Storage.Put(ctx, entry)
}

func (b *backend) deleteRole(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return nil, req.Storage.Delete(ctx, rolePrefix+d.Get("name").(string))
}
