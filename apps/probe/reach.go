package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// attempt bounds one request of reach and stream: whom a policy shuts out hears nothing, and
// a check has to learn that soon.
const attempt = 1500 * time.Millisecond

// reached is what reach prints of one URL.
type reached struct {
	URL     string   `json:"url"`
	Answers []string `json:"answers"` // in the order of the requests, without the failed ones
	Failed  int      `json:"failed,omitempty"`
	Error   string   `json:"error,omitempty"` // of the last failed request
}

// reach asks every URL; that one does not answer is a result and no error.
func reach(ctx context.Context, urls []string, out io.Writer) error {
	results := make([]reached, len(urls))
	var asked sync.WaitGroup
	for i, url := range urls {
		times := 1
		if n, rest, ok := strings.Cut(url, "*"); ok {
			var err error
			if times, err = strconv.Atoi(n); err != nil || times < 1 || times > 1000 {
				return errUsage
			}
			url = rest
		}
		results[i] = reached{URL: url, Answers: []string{}}
		asked.Go(func() {
			client := clientOf(false)
			for range times {
				answer, err := ask(ctx, client, url)
				if err != nil {
					results[i].Failed++
					results[i].Error = err.Error()
					continue
				}
				results[i].Answers = append(results[i].Answers, answer)
			}
		})
	}
	asked.Wait()
	encoder := json.NewEncoder(out)
	for _, r := range results {
		if err := encoder.Encode(r); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// clientOf keeps its connection, or makes a new one for each request.
func clientOf(keep bool) *http.Client {
	return &http.Client{
		Timeout: attempt,
		Transport: &http.Transport{
			DialContext:       (&net.Dialer{Timeout: attempt}).DialContext,
			DisableKeepAlives: !keep,
		},
	}
}

// ask returns the body, trimmed.
func ask(ctx context.Context, client *http.Client, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return "", err
	}
	if response.StatusCode/100 != 2 {
		return "", fmt.Errorf("status %s", response.Status)
	}
	return strings.TrimSpace(string(body)), nil
}

// streamed is what stream prints of one way of asking.
type streamed struct {
	Connections string  `json:"connections"` // "new" for each request, or "kept"
	Requests    int     `json:"requests"`
	Failed      int     `json:"failed"`
	Error       string  `json:"error,omitempty"` // of the last failed request
	At          string  `json:"at,omitempty"`    // when that one began, RFC 3339
	Slowest     float64 `json:"slowest"`         // seconds, of those that succeeded
}

// pause between requests of a stream. It does not load what it watches.
const pause = 10 * time.Millisecond

// stream asks until the time is over, or in ends, or ctx does.
func stream(ctx context.Context, length, url string, in io.Reader, out io.Writer) error {
	over := make(chan struct{})
	if length == "-" {
		go func() {
			_, _ = io.Copy(io.Discard, in)
			close(over)
		}()
	} else {
		during, err := time.ParseDuration(length)
		if err != nil || during <= 0 {
			return errUsage
		}
		go func() {
			select {
			case <-time.After(during):
			case <-ctx.Done():
			}
			close(over)
		}()
	}
	results := []streamed{{Connections: "new"}, {Connections: "kept"}}
	var asking sync.WaitGroup
	for i := range results {
		asking.Go(func() { results[i].run(over, clientOf(results[i].Connections == "kept"), url) })
	}
	asking.Wait()
	slices.SortFunc(results, func(a, b streamed) int { return cmp.Compare(a.Connections, b.Connections) })
	encoder := json.NewEncoder(out)
	for _, r := range results {
		if err := encoder.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// run asks until over is closed. A request that has begun is finished.
func (s *streamed) run(over <-chan struct{}, client *http.Client, url string) {
	defer client.CloseIdleConnections()
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-over:
			return
		case <-tick.C:
		}
		begun := time.Now()
		_, err := ask(context.Background(), client, url)
		s.Requests++
		if err != nil {
			s.Failed++
			s.Error, s.At = err.Error(), begun.UTC().Format(time.RFC3339Nano)
			continue
		}
		s.Slowest = max(s.Slowest, time.Since(begun).Seconds())
	}
}
