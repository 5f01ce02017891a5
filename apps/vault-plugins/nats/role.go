package nats

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/nats-io/jwt/v2"
)

const rolePrefix = "role/"

// role is what a credential may do, and for how long.
type role struct {
	Publish   []string      `json:"publish"`
	Subscribe []string      `json:"subscribe"`
	TTL       time.Duration `json:"ttl"`
	MaxTTL    time.Duration `json:"max_ttl"`
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
			"name":      {Type: framework.TypeLowerCaseString, Description: "Name of the role."},
			"publish":   {Type: framework.TypeCommaStringSlice, Description: "Subjects that may be published to; at least one, \">\" for all."},
			"subscribe": {Type: framework.TypeCommaStringSlice, Description: "Subjects that may be subscribed to; at least one, \">\" for all."},
			"ttl":       {Type: framework.TypeDurationSecond, Description: "Of a lease, and of each renewal."},
			"max_ttl":   {Type: framework.TypeDurationSecond, Description: "Of a lease with all its renewals; the JWT ends then."},
		},
		ExistenceCheck: func(ctx context.Context, req *logical.Request, d *framework.FieldData) (bool, error) {
			r, err := loadRole(ctx, req.Storage, d.Get("name").(string))
			return r != nil, err
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   &framework.PathOperation{Callback: b.readRole},
			logical.CreateOperation: &framework.PathOperation{Callback: b.writeRole},
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
		"publish": r.Publish, "subscribe": r.Subscribe, "ttl": int64(r.TTL.Seconds()), "max_ttl": int64(r.MaxTTL.Seconds()),
	}}, nil
}

func (b *backend) writeRole(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	r, err := loadRole(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		r = &role{}
	}
	for field, to := range map[string]*[]string{"publish": &r.Publish, "subscribe": &r.Subscribe} {
		if v, ok := d.GetOk(field); ok {
			*to = v.([]string)
		}
	}
	for field, to := range map[string]*time.Duration{"ttl": &r.TTL, "max_ttl": &r.MaxTTL} {
		if v, ok := d.GetOk(field); ok {
			*to = time.Duration(v.(int)) * time.Second
		}
	}
	// A JWT that names no subjects may use all of them: that has to be said.
	if len(r.Publish) == 0 || len(r.Subscribe) == 0 {
		return logical.ErrorResponse("publish and subscribe each need a subject; \">\" is all of them"), nil
	}
	for _, subject := range append(append([]string{}, r.Publish...), r.Subscribe...) {
		problems := jwt.CreateValidationResults()
		jwt.Subject(subject).Validate(problems)
		if errs := problems.Errors(); len(errs) > 0 {
			return logical.ErrorResponse("subject %q: %v", subject, errs[0]), nil
		}
	}
	if r.MaxTTL > 0 && r.TTL > r.MaxTTL {
		return logical.ErrorResponse("ttl is longer than max_ttl"), nil
	}
	entry, err := logical.StorageEntryJSON(rolePrefix+name, r)
	if err != nil {
		return nil, err
	}
	return nil, req.Storage.Put(ctx, entry)
}

func (b *backend) deleteRole(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return nil, req.Storage.Delete(ctx, rolePrefix+d.Get("name").(string))
}
