package native

import "context"

func (d *Driver) undoEgress(ctx context.Context) error              { return nil }
func (d *Driver) egressLeaks(ctx context.Context) ([]string, error) { return nil, nil }
