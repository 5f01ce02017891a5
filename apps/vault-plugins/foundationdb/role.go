package foundationdb

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const rolePrefix = "role/"

// role is who the certificate says that its holder is.
type role struct {
	CommonName       string        `json:"common_name"`
	Organization     string        `json:"organization"`
	OrganizationUnit string        `json:"organization_unit"`
	TTL              time.Duration `json:"ttl"`
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
		HelpSynopsis: "Who a certificate is for, and how long it lives.",
		Fields: map[string]*framework.FieldSchema{
			"name":              {Type: framework.TypeLowerCaseString, Description: "Name of the role."},
			"common_name":       {Type: framework.TypeString, Description: "CN of the subject; FoundationDB's rules name it."},
			"organization":      {Type: framework.TypeString, Description: "O of the subject."},
			"organization_unit": {Type: framework.TypeString, Description: "OU of the subject."},
			"ttl":               {Type: framework.TypeDurationSecond, Description: "Of certificate and lease, a day at most.", Default: 3600},
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
		"common_name": r.CommonName, "organization": r.Organization, "organization_unit": r.OrganizationUnit, "ttl": int64(r.TTL.Seconds()),
	}}, nil
}

func (b *backend) writeRole(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r := &role{
		CommonName: d.Get("common_name").(string), Organization: d.Get("organization").(string),
		OrganizationUnit: d.Get("organization_unit").(string), TTL: time.Duration(d.Get("ttl").(int)) * time.Second,
	}
	if r.CommonName == "" {
		return logical.ErrorResponse("common_name is needed: FoundationDB knows a client by its subject"), nil
	}
	if r.TTL <= 0 || r.TTL > longest {
		return logical.ErrorResponse("ttl must be more than nothing and at most %s: FoundationDB lets no certificate be taken back", longest), nil
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
