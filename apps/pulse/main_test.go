package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/apps/pulse/internal/credential"
	"github.com/orrery-dev/orrery/apps/pulse/internal/ledger"
	"github.com/orrery-dev/orrery/apps/pulse/internal/messaging"
	"github.com/orrery-dev/orrery/apps/pulse/internal/natstest"
)

// process is one pulse, as its main runs it.
type process struct {
	t             testing.TB
	listen, admin string
	stop          func() error
	log           *logBuffer
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func start(t testing.TB, server *natstest.Server, role string, edit func(*config)) *process {
	t.Helper()
	p := &process{t: t, log: &logBuffer{}}
	addresses := make(chan [2]net.Addr, 1)
	c := config{
		role: role, listen: "127.0.0.1:0", admin: "127.0.0.1:0", replicas: 1, deadline: 2 * time.Second, sample: 1,
		nats: messaging.Options{URL: server.URL()}, credential: credential.Options{File: server.CredsFile},
		delay: 50 * time.Millisecond, grace: 10 * time.Second, debug: true,
		listening: func(listen, admin net.Addr) { addresses <- [2]net.Addr{listen, admin} },
	}
	if role == "ingest" {
		c.outboxDir = t.TempDir()
	}
	if edit != nil {
		edit(&c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.run(ctx, p.log) }()
	p.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		if err := p.stop(); err != nil {
			t.Errorf("pulse %s ended with %v", role, err)
		}
		if t.Failed() || testing.Verbose() {
			t.Logf("log of pulse %s:\n%s", role, p.log)
		}
	})
	select {
	case a := <-addresses:
		p.listen, p.admin = "http://"+a[0].String(), "http://"+a[1].String()
	case err := <-ended:
		ended <- err
		t.Fatalf("pulse %s ended with %v", role, err)
	}
	return p
}

// get returns status and body.
func get(t testing.TB, url string) (int, string) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(body)
}

// eventually fails the test when f is not nil within a time that is plenty.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

func (p *process) ready() {
	p.t.Helper()
	eventually(p.t, func() error {
		if status, body := get(p.t, p.admin+"/readyz"); status != http.StatusOK {
			return fmt.Errorf("readyz: %d %s", status, body)
		}
		return nil
	})
}

type answer struct {
	Results []struct {
		ID, Status, Error string
		Duplicate         bool
	}
	Error string
}

// post sends events with the numbers from first to last.
func (p *process) post(producer string, first, last int) (int, answer) {
	p.t.Helper()
	var events []string
	for n := first; n <= last; n++ {
		events = append(events, fmt.Sprintf(`{"producer":%q,"sequence":%d,"data":{"n":%d}}`, producer, n, n))
	}
	return p.postBody(`{"events":[` + strings.Join(events, ",") + `]}`)
}

func (p *process) postBody(body string) (int, answer) {
	p.t.Helper()
	response, err := http.Post(p.listen+"/v1/events", "application/json", strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	var a answer
	if err := json.NewDecoder(response.Body).Decode(&a); err != nil {
		p.t.Fatal(err)
	}
	return response.StatusCode, a
}

func (p *process) account(producer string) (ledger.Account, error) {
	status, body := get(p.t, p.listen+"/v1/account?producer="+producer)
	var book ledger.Book
	if err := json.Unmarshal([]byte(body), &book); err != nil || status != http.StatusOK || len(book.Producers) != 1 {
		return ledger.Account{}, fmt.Errorf("account of %s: status %d, %s", producer, status, body)
	}
	return book.Producers[0], nil
}

// settled waits until all of n events are delivered.
func (p *process) settled(producer string, n uint64) (a ledger.Account) {
	p.t.Helper()
	eventually(p.t, func() (err error) {
		if a, err = p.account(producer); err != nil {
			return err
		}
		if a.Sent != n || a.Acknowledged != n || a.Delivered != n || a.Lost != 0 || len(a.Missing) != 0 || a.Skipped != 0 {
			return fmt.Errorf("account %+v, want %d sent, acknowledged and delivered", a, n)
		}
		return nil
	})
	return a
}

func TestEndToEnd(t *testing.T) {
	server := natstest.Start(t)
	in, out := start(t, server, "ingest", nil), start(t, server, "worker", nil)
	in.ready()
	out.ready()
	status, a := in.post("smoke", 1, 200)
	if status != http.StatusOK || len(a.Results) != 200 || a.Results[41].ID != "smoke.42" || a.Results[41].Status != "acknowledged" {
		t.Fatalf("status %d, %+v", status, a)
	}
	account := out.settled("smoke", 200)
	if account.Duplicates != 0 || account.Latency == nil || account.Latency.Max <= 0 {
		t.Errorf("account %+v", account)
	}
	// Again: JetStream has them, and nothing changes.
	if status, a := in.post("smoke", 100, 110); status != http.StatusOK || !a.Results[3].Duplicate {
		t.Errorf("sent again: %d %+v, want a duplicate that is acknowledged", status, a)
	}
	if account := in.settled("smoke", 200); account.Duplicates != 0 {
		t.Errorf("account after events were sent again: %+v", account)
	}
	// Numbered by ingest.
	status, a = in.postBody(`{"events":[{"data":1},{"data":"two"}]}`)
	if status != http.StatusOK || len(a.Results) != 2 {
		t.Fatalf("without a producer: %d %+v", status, a)
	}
	producer, _, _ := strings.Cut(a.Results[0].ID, ".")
	out.settled(producer, 2)
	// Closed, it is forgotten, and may begin again.
	if status, body := in.closeAccount("smoke"); status != http.StatusOK || !strings.Contains(body, `"delivered":200`) {
		t.Errorf("close: %d %s", status, body)
	}
	for _, p := range []*process{in, out} {
		if _, err := p.account("smoke"); err == nil {
			t.Error("a closed account is still there")
		}
		if status, body := get(t, p.listen+"/v1/account"); status != http.StatusOK || strings.Contains(body, `"smoke"`) {
			t.Errorf("all accounts: %d %s", status, body)
		}
	}
	in.post("smoke", 201, 203)
	eventually(t, func() error {
		a, err := out.account("smoke")
		if err != nil || a.Delivered != 3 || a.Skipped != 200 {
			return fmt.Errorf("account that began again: %+v %v", a, err)
		}
		return nil
	})
}

func (p *process) closeAccount(producer string) (int, string) {
	p.t.Helper()
	request, _ := http.NewRequest(http.MethodDelete, p.listen+"/v1/account?producer="+producer, nil)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(body)
}
