// Command probe is what smoke checks run inside pods. Images here hold no shell, so
// everything that a check needs to see from a pod is a subcommand. It uses the standard
// library alone and is a static binary.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const usage = `usage: probe COMMAND

  serve [ADDRESS...] answer HTTP on every ADDRESS (default :8080) with the hostname; /healthz says
                     ok; what is posted to /alerts is kept, and got from there
  get URL            print the body of URL; fails unless the status is 2xx
  reach [N*]URL...   ask all URLs at once, each N times in turn on a connection of its own, and
                     print for each a line of JSON: who answered, and the last error
  stream TIME URL    ask URL for TIME, or with - until standard input ends, without pause, on a
                     new connection each and on a kept one, and print as JSON how many requests
                     failed and how
  lookup NAME        print the addresses of NAME, sorted, one a line
  write FILE TEXT    write TEXT to FILE and flush it to the disk
  read FILE          print FILE
  print TEXT         print TEXT, as a service writes a line of its log
  sleep              wait for SIGTERM or SIGINT
`

// timeout bounds what talks to others, so that a check never hangs in a pod.
const timeout = 10 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	if errors.Is(err, errUsage) {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage")

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errUsage
	}
	command, args := args[0], args[1:]
	switch {
	case command == "serve" && len(args) == 0:
		return serve(ctx, []string{":8080"}, out)
	case command == "serve":
		return serve(ctx, args, out)
	case command == "get" && len(args) == 1:
		return get(ctx, args[0], out)
	case command == "reach" && len(args) > 0:
		return reach(ctx, args, out)
	case command == "stream" && len(args) == 2:
		return stream(ctx, args[0], args[1], os.Stdin, out)
	case command == "lookup" && len(args) == 1:
		return lookup(ctx, args[0], out)
	case command == "write" && len(args) == 2:
		return write(args[0], args[1])
	case command == "read" && len(args) == 1:
		return read(args[0], out)
	case command == "print" && len(args) == 1:
		_, err := fmt.Fprintln(out, args[0])
		return err
	case command == "sleep" && len(args) == 0:
		<-ctx.Done()
		return nil
	default:
		return errUsage
	}
}

// serve answers until ctx ends and then lets requests under way finish.
func serve(ctx context.Context, addresses []string, out io.Writer) error {
	hostname, err := os.Hostname()
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, hostname) })
	var posted inbox
	mux.HandleFunc("POST /alerts", posted.put)
	mux.HandleFunc("GET /alerts", posted.get)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: timeout}
	served := make(chan error, len(addresses))
	started := 0
	for _, address := range addresses {
		var listener net.Listener
		if listener, err = net.Listen("tcp", address); err != nil {
			break
		}
		fmt.Fprintf(out, "listening on %s\n", listener.Addr())
		started++
		go func() { served <- server.Serve(listener) }()
	}
	if err == nil {
		select {
		case err = <-served:
			started--
		case <-ctx.Done():
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err = errors.Join(err, server.Shutdown(last))
	for range started {
		<-served
	}
	return err
}

// inbox keeps what was posted last, a line each.
type inbox struct {
	mu    sync.Mutex
	lines []string
}

const (
	inboxLines = 64
	inboxBytes = 64 << 10 // of one
)

func (b *inbox) put(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, inboxBytes))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, strings.ReplaceAll(string(body), "\n", " "))
	b.lines = b.lines[max(0, len(b.lines)-inboxLines):]
}

func (b *inbox) get(w http.ResponseWriter, _ *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, line := range b.lines {
		fmt.Fprintln(w, line)
	}
}

func get(ctx context.Context, url string, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(out, response.Body); err != nil {
		return fmt.Errorf("read body of %s: %w", url, err)
	}
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("%s: status %s", url, response.Status)
	}
	return nil
}

func lookup(ctx context.Context, name string, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, name)
	if err != nil {
		return err
	}
	slices.Sort(addresses)
	_, err = fmt.Fprintln(out, strings.Join(slices.Compact(addresses), "\n"))
	return err
}

// write returns once the text is on the disk, the file's name included: storage checks
// kill the pod right afterwards.
func write(path, text string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.WriteString(file, text)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func read(path string, out io.Writer) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(out, file)
	return err
}
