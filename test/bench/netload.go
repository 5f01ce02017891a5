package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// netload is what this program does in the network of a pod: the load is the same on every
// network, and no image has to carry it.
//
//	netload serve            prints its port, and serves until it is killed
//	netload stream ADDRESS   one connection, as fast as it goes: bytes a second
//	netload rpc ADDRESS      one byte there and back, one after the other on one connection
const netload = "netload"

// Of the first byte of a connection: what is going to come.
const (
	loadStream = 's'
	loadRPC    = 'r'
)

// loadTime is how long one sample takes.
const loadTime = time.Second

// sample is what one run of a client found out.
type sample struct {
	Rate float64 `json:"rate"` // bytes or round trips a second
	// Of round trips, in microseconds.
	Median float64 `json:"median,omitempty"`
	P99    float64 `json:"p99,omitempty"`
}

func netloadMain(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "serve":
		return serveLoad()
	case len(args) != 2:
		return fmt.Errorf("want serve, stream ADDRESS or rpc ADDRESS, got %q", args)
	}
	kind := map[string]byte{"stream": loadStream, "rpc": loadRPC}[args[0]]
	if kind == 0 {
		return fmt.Errorf("there is no load %q", args[0])
	}
	conn, err := net.DialTimeout("tcp4", args[1], 30*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte{kind}); err != nil {
		return err
	}
	load := stream
	if kind == loadRPC {
		load = roundTrips
	}
	s, err := load(conn)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(s)
}

func serveLoad() error {
	l, err := net.Listen("tcp4", ":0") //nolint:gosec // in the namespace of a pod that is made for it
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return err
	}
	fmt.Println(port)
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_ = answerLoad(conn) // the client tells
		}()
	}
}

func answerLoad(conn net.Conn) error {
	b := make([]byte, 256<<10)
	if _, err := io.ReadFull(conn, b[:1]); err != nil {
		return err
	}
	stream := b[0] == loadStream
	total := uint64(0)
	for {
		n, err := conn.Read(b)
		total += uint64(n)
		switch {
		case errors.Is(err, io.EOF) && stream:
			_, err := conn.Write(binary.BigEndian.AppendUint64(nil, total))
			return err
		case err != nil:
			return err
		case stream:
			continue
		}
		if _, err := conn.Write(b[:n]); err != nil {
			return err
		}
	}
}

// stream counts what has arrived, not what was written.
func stream(conn net.Conn) (sample, error) {
	b := make([]byte, 256<<10)
	start := time.Now()
	for time.Since(start) < loadTime {
		if _, err := conn.Write(b); err != nil {
			return sample{}, err
		}
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return sample{}, err
	}
	if _, err := io.ReadFull(conn, b[:8]); err != nil {
		return sample{}, err
	}
	return sample{Rate: float64(binary.BigEndian.Uint64(b)) / time.Since(start).Seconds()}, nil
}

func roundTrips(conn net.Conn) (sample, error) {
	b := []byte{0}
	var took []float64
	start := time.Now()
	last := start
	for last.Sub(start) < loadTime {
		if _, err := conn.Write(b); err != nil {
			return sample{}, err
		}
		if _, err := io.ReadFull(conn, b); err != nil {
			return sample{}, err
		}
		now := time.Now()
		took = append(took, float64(now.Sub(last).Nanoseconds())/1000)
		last = now
	}
	slices.Sort(took)
	return sample{Rate: float64(len(took)) / last.Sub(start).Seconds(), Median: took[len(took)/2], P99: took[len(took)*99/100]}, nil
}

// startIn starts netload with args in the network of a process, and returns what it prints.
func startIn(ctx context.Context, pid int, args ...string) (*exec.Cmd, io.Reader, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, self, append([]string{netload}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		ns, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/net")
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = cmd.Start() // a child is where the thread is that starts it
		}
		started <- err
	}()
	return cmd, out, <-started
}

// loadIn runs a client in the network of a process.
func loadIn(ctx context.Context, pid int, kind, address string) (s sample, err error) {
	cmd, out, err := startIn(ctx, pid, kind, address)
	if err != nil {
		return s, err
	}
	decoded := json.NewDecoder(out).Decode(&s)
	if err := errors.Join(decoded, cmd.Wait()); err != nil {
		return s, fmt.Errorf("%s to %s: %w", kind, address, err)
	}
	return s, nil
}
