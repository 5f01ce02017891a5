// Command nats-server is the NATS server, which also reads its configuration again when the
// certificates in the folder NATS_CERTIFICATES change: otherwise it does so only when it is told,
// and nobody in its pod could tell it. No client is cut off by that; who connects after it sees the new certificate.
package main

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// every is how often the certificates are looked at: much more often than they may change, and it
// costs nothing.
const every = 5 * time.Second

func main() {
	flags := flag.NewFlagSet("nats-server", flag.ExitOnError)
	usage := func() { flags.PrintDefaults(); os.Exit(0) }
	options, err := server.ConfigureOptions(flags, os.Args[1:], server.PrintServerAndExit, usage, server.PrintTLSHelpAndDie)
	if err != nil {
		end(err)
	}
	if options.CheckConfig {
		fmt.Fprintf(os.Stderr, "nats-server: configuration file %s is valid (%s)\n", options.ConfigFile, options.ConfigDigest())
		return
	}
	server.RedactArgs(os.Args)
	s, err := server.NewServer(options)
	if err != nil {
		end(err)
	}
	s.ConfigureLogger()
	if err := server.Run(s); err != nil {
		end(err)
	}
	if folder := os.Getenv("NATS_CERTIFICATES"); folder != "" {
		go watch(folder, every, s.Reload, func(err error) {
			if err != nil {
				s.Errorf("New certificates are not taken, the old ones are kept: %v", err)
				return
			}
			s.Noticef("New certificates are taken")
		})
	}
	s.WaitForShutdown()
}

func end(err error) {
	fmt.Fprintln(os.Stderr, "nats-server:", err)
	os.Exit(1)
}

// watch has the configuration read again when a certificate in folder is another one than before.
// What fails, as it does while the files are being replaced, is tried again.
func watch(folder string, every time.Duration, reload func() error, told func(error)) {
	last, _ := digest(folder)
	for range time.Tick(every) {
		now, err := digest(folder)
		if err != nil || now == last {
			continue
		}
		err = reload()
		told(err)
		if err == nil {
			last = now
		}
	}
}

func digest(folder string) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	for _, name := range []string{"tls.crt", "tls.key", "ca.crt"} {
		text, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			return sum, err
		}
		h.Write(text)
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}
