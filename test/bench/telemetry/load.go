package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// spansPerTrace is also how many are in a request.
const spansPerTrace = 100

// sender sends traces to the gateway and remembers which were acknowledged.
type sender struct {
	url     string
	mu      sync.Mutex
	traces  []string // acknowledged
	refused atomic.Int64
}

// run sends rate spans a second until ctx ends; what is refused or fails is sent again.
func (s *sender) run(ctx context.Context, rate int) {
	if rate == 0 {
		return
	}
	ticker := time.NewTicker(time.Second * spansPerTrace / time.Duration(rate))
	defer ticker.Stop()
	var sending sync.WaitGroup
	defer sending.Wait()
	slots := make(chan struct{}, 64)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		slots <- struct{}{}
		sending.Go(func() {
			defer func() { <-slots }()
			s.send(context.WithoutCancel(ctx))
		})
	}
}

// send returns when the trace is acknowledged, or after a minute of refusals.
func (s *sender) send(ctx context.Context) string {
	id := make([]byte, 16)
	rand.Read(id)
	body := traceRequest(id, spansPerTrace)
	for wait := 100 * time.Millisecond; wait < 30*time.Second; wait *= 2 {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
		if err != nil {
			return ""
		}
		request.Header.Set("Content-Type", "application/x-protobuf")
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			_, _ = io.Copy(io.Discard, response.Body)
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.traces = append(s.traces, hex.EncodeToString(id))
				return hex.EncodeToString(id)
			}
		}
		s.refused.Add(spansPerTrace)
		time.Sleep(wait)
	}
	return ""
}

// traceRequest is an ExportTraceServiceRequest of opentelemetry-proto (trace/v1), which
// is small enough to be written by hand.
func traceRequest(id []byte, spans int) []byte {
	message := func(b []byte, field protowire.Number, content []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), content)
	}
	attribute := func(key, value string) []byte {
		any := message(nil, 1, []byte(value))
		return message(message(nil, 1, []byte(key)), 2, any)
	}
	now := time.Now()
	var scope, parent []byte
	for i := range spans {
		spanID := make([]byte, 8)
		rand.Read(spanID)
		span := message(message(nil, 1, id), 2, spanID)
		if i > 0 {
			span = message(span, 4, parent)
		} else {
			parent = spanID
		}
		span = message(span, 5, []byte("bench operation"))
		span = protowire.AppendVarint(protowire.AppendTag(span, 6, protowire.VarintType), 2)
		span = protowire.AppendFixed64(protowire.AppendTag(span, 7, protowire.Fixed64Type), uint64(now.Add(-time.Second).UnixNano()))
		span = protowire.AppendFixed64(protowire.AppendTag(span, 8, protowire.Fixed64Type), uint64(now.UnixNano()))
		span = message(span, 9, attribute("http.route", "/orders/{id}"))
		span = message(span, 9, attribute("net.peer.name", "bench"))
		scope = message(scope, 2, span)
	}
	resource := message(nil, 1, attribute("service.name", "bench"))
	return message(nil, 1, message(message(nil, 1, resource), 2, scope))
}

// writer writes lines as containerd does, to the files of several pods.
type writer struct {
	dir   string
	lines int
}

func (w *writer) run(ctx context.Context, rate int) error {
	if rate == 0 {
		return nil
	}
	var files []*bufio.Writer
	for i := range 5 {
		f, err := w.open(fmt.Sprintf("writer-%d", i))
		if err != nil {
			return err
		}
		defer f.Close()
		files = append(files, bufio.NewWriterSize(f, 1<<20))
	}
	const step = 50 * time.Millisecond
	ticker := time.NewTicker(step)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		for range rate / int(time.Second/step) {
			w.lines++
			fmt.Fprintf(files[w.lines%len(files)], "%s stdout F {\"time\":%q,\"level\":\"INFO\",\"msg\":\"order accepted\",\"n\":%d,\"route\":\"/orders/{id}\",\"status\":202,\"trace_id\":\"%032x\",\"span_id\":\"%016x\"}\n",
				time.Now().UTC().Format(time.RFC3339Nano), time.Now().UTC().Format(time.RFC3339Nano), w.lines, w.lines, w.lines)
		}
		for _, f := range files {
			if err := f.Flush(); err != nil {
				return err
			}
		}
	}
}

func (w *writer) open(pod string) (*os.File, error) {
	dir := filepath.Join(w.dir, "bench_"+pod+"_00000000-0000-0000-0000-000000000000", "main")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(filepath.Join(dir, "0.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
}

// mark writes one line to a file of its own.
func (w *writer) mark(word string) error {
	f, err := w.open("marker")
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = fmt.Fprintf(f, "%s stdout F mark %s\n", time.Now().UTC().Format(time.RFC3339Nano), word)
	return err
}
