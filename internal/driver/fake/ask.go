package fake

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// client leaves no connection behind.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// ask sends an order to the host.
func (d *Driver) ask(ctx context.Context, o order) (report, error) {
	var r report
	fail := func(err error) (report, error) { return r, fmt.Errorf("the fake driver's host: %w", err) }
	body, err := json.Marshal(o)
	if err != nil {
		return fail(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.Host+"/"+d.Spec.Name, bytes.NewReader(body))
	if err != nil {
		return fail(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return fail(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		return fail(fmt.Errorf("%s: %s", resp.Status, text))
	}
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
		return fail(err)
	}
	if r.Error != "" {
		return fail(errors.New(r.Error))
	}
	return r, nil
}

// do runs a method, unless a test wants it to fail.
func (d *Driver) do(ctx context.Context, method string, work func() error) error {
	r, err := d.ask(ctx, order{Method: method})
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(r.Fault.Delay):
	}
	if r.Fault.Error != "" && !r.Fault.Late {
		return errors.New(r.Fault.Error)
	}
	if err := work(); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	if r.Fault.Error != "" {
		return errors.New(r.Fault.Error)
	}
	return nil
}
