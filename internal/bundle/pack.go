package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

// chunkSize is what one zstd frame holds. Frames are compressed side by side, and a blob of
// several is one stream to whoever reads it. The size is part of the result: it must not
// depend on the machine.
const chunkSize = 4 << 20

// source is a file to compress.
type source struct {
	name   string
	sha256 string // what it must be; empty when anything goes
	open   func() (io.ReadCloser, error)
}

// packed is what became of one.
type packed struct {
	digest     string // hexadecimal, of the compressed bytes
	size       int64
	plainSHA   string
	plainBytes int64
}

// chunk is a piece of a source on its way through the workers.
type chunk struct {
	data, out []byte
	last      bool // of its source; closes it
	plainSHA  string
	plain     int64
	done      chan struct{}
}

// pack compresses sources and has out write the frames, in order: begin before the first
// frame of a source, and end after its last. Memory is bounded by the number of workers.
func pack(ctx context.Context, sources []source, workers int, begin func(source) error, frame func([]byte) error, end func(packed) error) error {
	g, ctx := errgroup.WithContext(ctx)
	work, ordered := make(chan *chunk), make(chan *chunk, workers)
	free := make(chan *chunk, 2*workers+2)
	for range cap(free) {
		free <- &chunk{data: make([]byte, chunkSize)}
	}
	g.Go(func() error {
		defer close(ordered)
		defer close(work)
		for _, s := range sources {
			if err := cut(ctx, s, free, func(c *chunk) error {
				for _, to := range []chan<- *chunk{ordered, work} {
					select {
					case to <- c:
					case <-ctx.Done():
						return context.Cause(ctx)
					}
				}
				return nil
			}); err != nil {
				return fmt.Errorf("pack %s: %w", s.name, err)
			}
		}
		return nil
	})
	for range workers {
		g.Go(func() error {
			z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithZeroFrames(true), zstd.WithEncoderCRC(true))
			if err != nil {
				return err
			}
			for c := range work {
				c.out = z.EncodeAll(c.data, c.out[:0])
				close(c.done)
			}
			return z.Close()
		})
	}
	g.Go(func() error {
		i, first := 0, true
		var d *digester
		for c := range ordered {
			select {
			case <-c.done:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if first {
				d, first = newDigester(false), false
				if err := begin(sources[i]); err != nil {
					return err
				}
			}
			_, _ = d.Write(c.out)
			if err := frame(c.out); err != nil {
				return err
			}
			if c.last {
				if err := end(packed{d.hex(), d.size, c.plainSHA, c.plain}); err != nil {
					return err
				}
				i, first = i+1, true
			}
			select {
			case free <- c:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	return g.Wait()
}

// cut reads a source in chunks and passes them on. A source that changed while it was read,
// or is not what it should be, is an error before its last chunk is passed.
func cut(ctx context.Context, s source, free <-chan *chunk, pass func(*chunk) error) error {
	r, err := s.open()
	if err != nil {
		return err
	}
	defer r.Close()
	plain, total := sha256.New(), int64(0)
	var held *chunk // the last one is known only when the next is empty
	for {
		var c *chunk
		select {
		case c = <-free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		c.data, c.last, c.done = c.data[:chunkSize], false, make(chan struct{})
		n, err := io.ReadFull(r, c.data)
		atEnd := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !atEnd {
			return err
		}
		c.data = c.data[:n]
		plain.Write(c.data)
		total += int64(n)
		if held != nil && n > 0 {
			if err := pass(held); err != nil {
				return err
			}
			held = nil
		}
		if held == nil {
			held = c
		}
		if atEnd {
			break
		}
	}
	held.last, held.plain, held.plainSHA = true, total, hex.EncodeToString(plain.Sum(nil))
	if s.sha256 != "" && held.plainSHA != s.sha256 {
		return fmt.Errorf("its SHA-256 is %s and should be %s: the cache is damaged", held.plainSHA, s.sha256)
	}
	return pass(held)
}
