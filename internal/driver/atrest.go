package driver

import "context"

// AtRestRotation is what an exchange of the key of etcd's contents did.
type AtRestRotation struct {
	From      string `json:"from"`      // names of keys
	To        string `json:"to"`        //
	Resumed   bool   `json:"resumed"`   // it goes on with one that was interrupted
	Rewritten int    `json:"rewritten"` // objects
	Encrypted int    `json:"encrypted"` // objects under the new key at the end
}

// AtRestKeeper is implemented by drivers whose API servers encrypt what they write to etcd.
type AtRestKeeper interface {
	// RotateAtRest exchanges the key while the API goes on: all API servers learn to read with a new
	// one, then they write with it, everything is written anew, and the old one is given up. What was
	// interrupted is gone on with. tell, if not nil, is called before each part.
	RotateAtRest(ctx context.Context, tell func(part string)) (AtRestRotation, error)
	// AtRestKey names the key under which etcd has an object of a core resource, such as "secrets";
	// "" when it is not encrypted. The environment must run.
	AtRestKey(ctx context.Context, resource, namespace, name string) (string, error)
}

// Auditor is implemented by drivers whose API servers keep an audit log: it is a service of every
// server, for [LogSource], and this its name.
type Auditor interface {
	AuditService() string
}
