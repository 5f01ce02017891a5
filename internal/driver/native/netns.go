package native

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// netNS is a network namespace that lives as long as its descriptor. Work is done in it by
// threads that entered it and are thrown away afterwards, never given back to the runtime.
type netNS struct {
	file *os.File
	idle chan chan func()
	once sync.Once
	done chan struct{}
}

// newNetNS makes a namespace.
func newNetNS() (*netNS, error) {
	type result struct {
		f   *os.File
		err error
	}
	made := make(chan result, 1)
	go func() {
		// No unlock: the thread ends with the goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{err: fmt.Errorf("make a network namespace: %w", err)}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		made <- result{f, err}
	}()
	r := <-made
	if r.err != nil {
		return nil, r.err
	}
	return &netNS{file: r.f, idle: make(chan chan func(), 4), done: make(chan struct{})}, nil
}

func (n *netNS) fd() int { return int(n.file.Fd()) }

// do runs f on a thread inside the namespace and waits for it.
func (n *netNS) do(f func() error) error {
	result := make(chan error, 1)
	job := func() { result <- f() }
	select {
	case w := <-n.idle:
		w <- job
	default:
		go n.worker(job, result)
	}
	return <-result
}

// worker keeps a thread in the namespace; a few stay for the next job, since entering
// costs a thread each time.
func (n *netNS) worker(job func(), result chan<- error) {
	runtime.LockOSThread()
	if err := unix.Setns(n.fd(), unix.CLONE_NEWNET); err != nil {
		result <- fmt.Errorf("enter the fabric's namespace: %w", err)
		return
	}
	jobs := make(chan func())
	for {
		job()
		select {
		case n.idle <- jobs:
		default:
			return
		}
		select {
		case job = <-jobs:
		case <-n.done:
			return
		}
	}
}

// dial connects from inside the namespace. The address must be a literal one: looking up
// a name would happen elsewhere.
func (n *netNS) dial(ctx context.Context, address string) (c net.Conn, err error) {
	err = n.do(func() (err error) {
		var d net.Dialer
		c, err = d.DialContext(ctx, "tcp", address)
		return err
	})
	return c, err
}

// listen listens inside the namespace.
func (n *netNS) listen(address string) (l net.Listener, err error) {
	err = n.do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	return l, err
}

// close lets the idle threads go. The namespace ends with the last process in it.
func (n *netNS) close() {
	n.once.Do(func() { close(n.done); n.file.Close() })
}
