package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
)

const (
	parallel       = 8                // requests at a time of one apply
	attemptTimeout = 30 * time.Second // of one request: a node that lost power answers nothing at all
	settleTimeout  = 5 * time.Second  // how long API servers may take to see each other's changes
	defaultTimeout = 2 * time.Minute  // of a whole call whose context has no deadline
	removeTimeout  = 5 * time.Minute
)

// bounded gives ctx a deadline if it has none: nothing here waits for ever.
func bounded(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, timeout, fmt.Errorf("gave up after %s", timeout))
}

// retry calls f until it succeeds, fails for good, or ctx ends; then the error carries
// what f said last.
func (c *Client) retry(ctx context.Context, what string, f func(ctx context.Context) error) error {
	start, wait := time.Now(), 50*time.Millisecond
	for {
		attempt, cancel := context.WithTimeout(ctx, attemptTimeout)
		err := f(attempt)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w (last: %w)", what, context.Cause(ctx), err)
		}
		hung := errors.Is(err, context.DeadlineExceeded)
		if settling := isSettling(err) && time.Since(start) < c.settle; !settling && !hung && !isTransient(err) {
			return fmt.Errorf("%s: %w", what, err)
		}
		c.log.DebugContext(ctx, "trying again", "what", what, "error", err)
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w (last: %w)", what, context.Cause(ctx), err)
		case <-time.After(wait/2 + rand.N(wait)):
		}
		wait = min(2*wait, 2*time.Second)
	}
}

// errNotYet marks what passes by itself; retry goes on as long as ctx allows.
var errNotYet = errors.New("not yet")

// isTransient tells errors that the same request may not meet again.
func isTransient(err error) bool {
	return errors.Is(err, errNotYet) || Transient(err)
}

// Transient tells errors that the same request may not meet again: connections that broke,
// servers that are busy or change their leader. Not that something does not exist.
func Transient(err error) bool {
	if apierrors.IsConflict(err) || apierrors.IsTooManyRequests(err) ||
		apierrors.IsServerTimeout(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsTimeout(err) {
		return true
	}
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		text := status.Status().Message
		for _, passing := range []string{
			"failed calling webhook",   // its pods are not there yet
			"failed to call webhook",   // likewise
			"etcdserver: ",             // leader changes and timeouts
			"because it is being term", // a namespace of the same name is going away
			"the object has been modified",
			"resource quota evaluation timed out", // an API server that has much else to do
		} {
			if strings.Contains(text, passing) {
				return true
			}
		}
		return false
	}
	var netErr net.Error
	return utilnet.IsConnectionRefused(err) || utilnet.IsConnectionReset(err) || utilnet.IsProbableEOF(err) ||
		utilnet.IsHTTP2ConnectionLost(err) || brokenAnswer(err) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EPIPE) ||
		(errors.As(err, &netErr) && netErr.Timeout())
}

// Denied tells the message of a refusal that stays: admission looked at the object and said no. Quotas are
// not meant, which give way, nor webhooks that did not answer. Conditions and events, and what Argo CD
// says of a sync, have such refusals as text alone.
func Denied(message string) bool {
	return slices.ContainsFunc([]string{
		"denied request",       // a ValidatingAdmissionPolicy
		"denied the request",   // a webhook
		"violates PodSecurity", // the admission of pods
	}, func(part string) bool { return strings.Contains(message, part) })
}

// brokenAnswer tells an answer whose connection ended in the middle; client-go has no type for it.
func brokenAnswer(err error) bool {
	return strings.Contains(err.Error(), "unexpected error when reading response body. Please retry")
}

// isSettling tells errors that go away once all API servers have seen a change that one
// of them has confirmed: a new namespace, a new kind.
func isSettling(err error) bool { return apierrors.IsNotFound(err) || isNoMatch(err) }

// each calls f for all items, at most [parallel] at a time, and joins the errors: a
// person who mends a manifest wants to hear of all its mistakes.
func each[T any](ctx context.Context, items []T, f func(ctx context.Context, i int, item T) error) error {
	errs := make([]error, len(items))
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallel)
	for i, item := range items {
		if ctx.Err() != nil {
			break
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = f(ctx, i, item)
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		// One of them tells enough.
		for _, e := range errs {
			if e != nil {
				return e
			}
		}
		return context.Cause(ctx)
	}
	return errors.Join(errs...)
}
