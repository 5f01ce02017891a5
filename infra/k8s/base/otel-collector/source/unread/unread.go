package unread

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/stanza/entry"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/stanza/operator"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/stanza/operator/helper"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

const (
	operatorType = "unread"
	interval     = time.Second
	// Attributes that the receiver sets.
	pathAttribute   = "log.file.path"
	offsetAttribute = "log.file.record_offset"
)

// Register makes the operator known to file_log.
func Register() {
	operator.Register(operatorType, func() operator.Builder {
		return &Config{TransformerConfig: helper.NewTransformerConfig(operatorType, operatorType)}
	})
}

// Config of the operator. The receiver has to set include_file_path and include_file_record_offset;
// the offset is taken off again.
type Config struct {
	helper.TransformerConfig `mapstructure:",squash"`
	// Include and Exclude are patterns of files, as the receiver has them.
	Include []string `mapstructure:"include"`
	Exclude []string `mapstructure:"exclude"`
}

// Build implements operator.Builder.
func (c Config) Build(set component.TelemetrySettings) (operator.Operator, error) {
	base, err := c.TransformerConfig.Build(set)
	if err != nil {
		return nil, err
	}
	if len(c.Include) == 0 {
		return nil, errors.New("include must name the files that are read")
	}
	for _, pattern := range append(c.Include, c.Exclude...) {
		if _, err := filepath.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("pattern %q: %w", pattern, err)
		}
	}
	meter := set.MeterProvider.Meter("github.com/orrery-dev/orrery/otel-collector/unread")
	bytes, err := meter.Int64Counter("otelcol_unread_log_bytes",
		metric.WithDescription("Bytes of logs that were deleted before they were read"), metric.WithUnit("By"))
	if err != nil {
		return nil, fmt.Errorf("count what is lost: %w", err)
	}
	files, err := meter.Int64Counter("otelcol_unread_log_files",
		metric.WithDescription("Files of logs that were deleted before they were read to the end"), metric.WithUnit("{file}"))
	if err != nil {
		return nil, fmt.Errorf("count what is lost: %w", err)
	}
	return &watcher{TransformerOperator: base, files: &ledger{include: c.Include, exclude: c.Exclude}, lostBytes: bytes, lostFiles: files}, nil
}

func reasonOf(withPod bool) metric.MeasurementOption {
	reason := "set aside"
	if withPod {
		reason = "pod deleted"
	}
	return metric.WithAttributes(attribute.String("reason", reason))
}

type watcher struct {
	helper.TransformerOperator
	files                *ledger
	lostBytes, lostFiles metric.Int64Counter
	cancel               context.CancelFunc
	running              sync.WaitGroup
}

// Start implements operator.Operator.
func (w *watcher) Start(operator.Persister) error {
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	// From the beginning, or the first loss would be no increase.
	for _, withPod := range []bool{true, false} {
		w.lostBytes.Add(ctx, 0, reasonOf(withPod))
		w.lostFiles.Add(ctx, 0, reasonOf(withPod))
	}
	w.files.look()
	w.running.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for _, lost := range w.files.look() {
				w.lostBytes.Add(ctx, lost.bytes, reasonOf(lost.withPod))
				w.lostFiles.Add(ctx, 1, reasonOf(lost.withPod))
			}
		}
	})
	return nil
}

// Stop implements operator.Operator.
func (w *watcher) Stop() error {
	if w.cancel != nil {
		w.cancel()
	}
	w.running.Wait()
	return nil
}

// Process implements operator.Operator.
func (w *watcher) Process(ctx context.Context, e *entry.Entry) error {
	w.see(e)
	return w.Write(ctx, e)
}

// ProcessBatch implements operator.Operator.
func (w *watcher) ProcessBatch(ctx context.Context, entries []*entry.Entry) error {
	for _, e := range entries {
		w.see(e)
	}
	return w.WriteBatch(ctx, entries)
}

func (w *watcher) see(e *entry.Entry) {
	path, _ := e.Attributes[pathAttribute].(string)
	offset, ok := e.Attributes[offsetAttribute].(int64)
	delete(e.Attributes, offsetAttribute)
	if line, text := e.Body.(string); ok && text && path != "" {
		w.files.read(path, offset, int64(len(line))+1)
	}
}
