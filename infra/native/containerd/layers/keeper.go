package layers

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// Lines of JSON between a node and the keeper of the store. One connection is about one
// layer; a turn to unpack it ends when the connection does. The keeper's side is
// internal/driver/native/layers.go in the main module.
type (
	request struct {
		// Chain is the chain ID of the wanted layer: it names content and the layers below
		// it, from which missing parent folders take their owners and modes.
		Chain string `json:"chain,omitempty"`
		// Adopt is the ID of the snapshot that holds the unpacked layer.
		Adopt string `json:"adopt,omitempty"`
	}
	answer struct {
		State  string `json:"state"` // "have", "turn", "adopted" or "private"
		Detail string `json:"detail,omitempty"`
	}
)

const (
	stateHave    = "have"    // it is in the store
	stateTurn    = "turn"    // unpack it and offer it
	stateAdopted = "adopted" // it is in the store now, a link stands in its place
	statePrivate = "private" // unpack it for yourself; detail says why
)

// keeper of the store.
type keeper struct{ socket string }

// turn is the right to unpack one layer for all nodes.
type turn struct {
	conn     net.Conn
	in       *json.Decoder
	snapshot string // ID
}

// ask returns once the layer is in the store, or it is this node's turn to make it (turn
// is not nil), or it is better made privately (detail says why).
func (k keeper) ask(ctx context.Context, chain string) (state, detail string, t *turn, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", k.socket)
	if err != nil {
		return "", "", nil, fmt.Errorf("ask for layer %s: %w", chain, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	t = &turn{conn: conn, in: json.NewDecoder(conn)}
	a, err := t.say(request{Chain: chain})
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil || a.State != stateTurn {
		t.end()
		t = nil
	}
	return a.State, a.Detail, t, err
}

func (t *turn) say(r request) (answer, error) {
	var a answer
	if err := json.NewEncoder(t.conn).Encode(r); err != nil {
		return a, err
	}
	return a, t.in.Decode(&a)
}

// offer hands the unpacked layer over. On an error it is still this node's own.
func (t *turn) offer() error {
	if err := t.conn.SetDeadline(time.Now().Add(adoptTime)); err != nil {
		return err
	}
	a, err := t.say(request{Adopt: t.snapshot})
	if err == nil && a.State != stateAdopted {
		err = fmt.Errorf("%s", a.Detail)
	}
	return err
}

// adoptTime bounds an adoption, which is a few renames.
const adoptTime = 10 * time.Second

func (t *turn) end() { t.conn.Close() }
