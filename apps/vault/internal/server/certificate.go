package server

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"
)

// certificates gives out the certificate of two files, read again when they changed.
type certificates struct {
	cert, key string

	mu     sync.Mutex
	loaded *tls.Certificate
	at     time.Time
}

func (c *certificates) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	info, err := os.Stat(c.cert)
	if err == nil && c.loaded != nil && info.ModTime().Equal(c.at) {
		return c.loaded, nil
	}
	var pair tls.Certificate
	if err == nil {
		pair, err = tls.LoadX509KeyPair(c.cert, c.key)
	}
	if err != nil {
		// Half of a renewal, most likely: the other half follows.
		if c.loaded != nil {
			return c.loaded, nil
		}
		return nil, fmt.Errorf("read the certificate to serve with: %w", err)
	}
	c.loaded, c.at = &pair, info.ModTime()
	return c.loaded, nil
}
