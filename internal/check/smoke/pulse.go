package smoke

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
)

// Names of the pulse component; see infra/k8s/base/pulse and docs/reference/pulse.md.
const (
	pulseNamespace = "apps"
	pulseSelector  = "app.kubernetes.io/name=pulse"
	pulsePort      = 8080
	pulseAdminPort = 8081
	pulseComponent = "app.kubernetes.io/component"
)

// pulseEvents are sent over HTTP, and as many over gRPC.
const pulseEvents = 100

// pulseDeadline is what the workers have to deliver them in; pulse itself calls what is
// not delivered after 30 s lost.
const pulseDeadline = 45 * time.Second

// pulsePods are the pods of pulse by role, those that are going away left out.
func pulsePods(ctx context.Context, env Env) (map[string][]unstructured.Unstructured, error) {
	pods, err := env.Client.List(ctx, "v1", "Pod", pulseNamespace, pulseSelector)
	if err != nil {
		return nil, fmt.Errorf("list the pods of pulse: %w", err)
	}
	byName(pods)
	roles := map[string][]unstructured.Unstructured{}
	for _, p := range pods {
		if p.GetDeletionTimestamp() == nil {
			role := p.GetLabels()[pulseComponent]
			roles[role] = append(roles[role], p)
		}
	}
	return roles, nil
}

// pulseReady: every replica is there and says of itself that it can do its work.
func pulseReady(ctx context.Context, env Env) check.Result {
	roles, err := pulsePods(ctx, env)
	if err != nil {
		return check.Wait("%v", err)
	}
	var counts []string
	for _, role := range []string{"ingest", "worker"} {
		deployment, err := env.Client.Get(ctx, "apps/v1", "Deployment", pulseNamespace, "pulse-"+role)
		if err != nil {
			return check.Wait("read the Deployment of pulse %s: %v", role, err)
		}
		replicas, _, _ := unstructured.NestedInt64(deployment.Object, "spec", "replicas")
		if len(roles[role]) != int(replicas) {
			return check.Wait("%d of %d replicas of pulse %s have a pod", len(roles[role]), replicas, role)
		}
		for _, p := range roles[role] {
			if !ready(&p) {
				return check.Wait("%s is not Ready: %s", p.GetName(), trouble(&p))
			}
			status, body, err := pulseGet(ctx, env, p.GetName(), pulseAdminPort, "/readyz")
			if err != nil {
				return check.Wait("ask %s whether it is ready: %v", p.GetName(), err)
			}
			if status != http.StatusOK {
				return check.Wait("%s says: %s", p.GetName(), strings.TrimSpace(string(body)))
			}
		}
		counts = append(counts, fmt.Sprintf("%d %s", replicas, role))
	}
	return check.OK("%s, each of which reaches NATS, its streams and its consumer", strings.Join(counts, " and "))
}

// pulseAccount is the part of GET /v1/account that is looked at.
type pulseAccount struct {
	Totals struct {
		Lost uint64 `json:"lost"`
	} `json:"totals"`
	Producers []pulseProducer `json:"producers"`
}

type pulseProducer struct {
	Producer       string   `json:"producer"`
	Sent           uint64   `json:"sent"`
	Acknowledged   uint64   `json:"acknowledged"`
	Delivered      uint64   `json:"delivered"`
	Duplicates     uint64   `json:"duplicates"`
	Unacknowledged uint64   `json:"unacknowledged"`
	Lost           uint64   `json:"lost"`
	Skipped        uint64   `json:"skipped"`
	Missing        []string `json:"missing"`
	Latency        struct {
		P95 float64 `json:"p95"`
	} `json:"latencySeconds"`
}

// pulseDelivery: events that only this run sends, over HTTP to one replica and over gRPC
// to another, some of them twice, are acknowledged, and each is delivered with one effect.
// Nothing that was ever acknowledged is lost.
func pulseDelivery(ctx context.Context, env Env) check.Result {
	roles, err := pulsePods(ctx, env)
	if err != nil {
		return check.Wait("%v", err)
	}
	ingests, workers := roles["ingest"], roles["worker"]
	if len(ingests) == 0 || len(workers) == 0 {
		return check.Wait("%d ingest and %d worker of pulse have a pod", len(ingests), len(workers))
	}
	producer := "smoke-" + token(6)
	first, second := ingests[0].GetName(), ingests[len(ingests)-1].GetName()
	// The overlap is sent twice and must count once.
	if err := pulseSendHTTP(ctx, env, first, producer, 1, pulseEvents); err != nil {
		return check.Wait("send events to %s: %v", first, err)
	}
	if err := pulseSendGRPC(ctx, env, second, producer, pulseEvents-9, 2*pulseEvents); err != nil {
		return check.Wait("send events to %s over gRPC: %v", second, err)
	}
	defer func() {
		// The account of a loss stays, for whoever looks into it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		_, _, _, _ = pulseDo(ctx, env, workers[0].GetName(), pulsePort, http.MethodDelete, "/v1/account?producer="+producer, "", nil)
	}()
	var p pulseProducer
	err = until(ctx, pulseDeadline, func() error {
		for _, w := range workers { // each must say the same
			book, err := pulseBook(ctx, env, w.GetName(), producer)
			if err != nil {
				return err
			}
			if len(book.Producers) != 1 || book.Producers[0].Producer != producer {
				return check.Final(fmt.Errorf("%s answers for %d producers when asked for one", w.GetName(), len(book.Producers)))
			}
			p = book.Producers[0]
			if err := pulseSettled(p, 2*pulseEvents); err != nil {
				return fmt.Errorf("%s says: %w", w.GetName(), err)
			}
		}
		return nil
	})
	if err != nil {
		return check.Fail(fmt.Errorf("%d events of %s were acknowledged: %w", 2*pulseEvents, producer, err))
	}
	book, err := pulseBook(ctx, env, workers[0].GetName(), "")
	if err != nil {
		return check.Wait("%v", err)
	}
	if book.Totals.Lost > 0 {
		return check.Fail(pulseLost(book))
	}
	message := fmt.Sprintf("%d events over HTTP and gRPC, 10 of them twice: all acknowledged, delivered with one effect, p95 %.0f ms; of %d producers nothing is lost",
		2*pulseEvents, p.Latency.P95*1000, len(book.Producers))
	if p.Duplicates > 0 {
		message += fmt.Sprintf("; %d deliveries were repeated, without effect", p.Duplicates)
	}
	return check.OK("%s", message)
}

// pulseSettled says what is missing in the account of a producer that sent n events.
func pulseSettled(p pulseProducer, n uint64) error {
	switch {
	case p.Lost > 0:
		return check.Final(fmt.Errorf("%d are lost, acknowledged but not delivered: %s", p.Lost, list(setOf(p.Missing))))
	case p.Delivered > n || p.Sent > n:
		return check.Final(fmt.Errorf("%d were sent and %d delivered, but there are only %d: events were counted twice", p.Sent, p.Delivered, n))
	case p.Skipped > 0:
		return check.Final(fmt.Errorf("%d numbers were never seen, though their senders were told that they are acknowledged", p.Skipped))
	case p.Acknowledged != n || p.Unacknowledged > 0 || p.Delivered != n || len(p.Missing) > 0:
		return fmt.Errorf("%d of %d are acknowledged and %d delivered", p.Acknowledged, n, p.Delivered)
	}
	return nil
}

func pulseLost(book pulseAccount) error {
	var parts []string
	for _, p := range book.Producers {
		if p.Lost > 0 {
			parts = append(parts, fmt.Sprintf("%s (%d: %s)", p.Producer, p.Lost, list(setOf(p.Missing))))
		}
	}
	return fmt.Errorf("%d events that NATS acknowledged were not delivered in time, of the producers %s; ask GET /v1/account of pulse, see docs/reference/pulse.md", book.Totals.Lost, strings.Join(parts, ", "))
}

func setOf(names []string) map[string]bool {
	set := map[string]bool{}
	for _, n := range names {
		set[n] = true
	}
	return set
}

func pulseBook(ctx context.Context, env Env, pod, producer string) (book pulseAccount, err error) {
	path := "/v1/account"
	if producer != "" {
		path += "?producer=" + producer
	}
	status, body, err := pulseGet(ctx, env, pod, pulsePort, path)
	if err != nil {
		return book, fmt.Errorf("ask %s for the account: %w", pod, err)
	}
	if status != http.StatusOK {
		return book, fmt.Errorf("ask %s for the account: status %d: %.300s", pod, status, body)
	}
	if err := json.Unmarshal(body, &book); err != nil {
		return book, fmt.Errorf("account of %s: %w", pod, err)
	}
	return book, nil
}

// pulseSendHTTP sends the events from first to last and fails unless all are acknowledged.
func pulseSendHTTP(ctx context.Context, env Env, pod, producer string, first, last uint64) error {
	type event struct {
		Producer string `json:"producer"`
		Sequence uint64 `json:"sequence"`
		Data     string `json:"data"`
	}
	var events []event
	for n := first; n <= last; n++ {
		events = append(events, event{producer, n, "orrery verify"})
	}
	body, err := json.Marshal(map[string]any{"events": events})
	if err != nil {
		return err
	}
	status, _, answer, err := pulseDo(ctx, env, pod, pulsePort, http.MethodPost, "/v1/events", "application/json", body)
	if err != nil {
		return err
	}
	// 202 is less: kept by ingest, not acknowledged by NATS.
	if status != http.StatusOK {
		return fmt.Errorf("status %d: %.300s", status, answer)
	}
	var results struct{ Results []struct{ ID, Status string } }
	if err := json.Unmarshal(answer, &results); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if got, want := len(results.Results), len(events); got != want {
		return fmt.Errorf("%d results for %d events", got, want)
	}
	for i, r := range results.Results {
		if want := fmt.Sprintf("%s.%d", producer, events[i].Sequence); r.ID != want || r.Status != "acknowledged" {
			return fmt.Errorf("result %d is for event %s, %q; want %s acknowledged", i, r.ID, r.Status, want)
		}
	}
	return nil
}

// grpcFrame puts a message into a frame of gRPC: no compression, length, content.
func grpcFrame(message []byte) []byte {
	n := len(message)
	return append([]byte{0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, message...)
}

// pulseSendGRPC does the same over gRPC: pulse.v1.Ingest/Send of apps/pulse/pulsepb. One
// unary call without a stub is a frame of protobuf each way; a gRPC library would be the
// larger part of this program.
func pulseSendGRPC(ctx context.Context, env Env, pod, producer string, first, last uint64) error {
	var request []byte
	for n := first; n <= last; n++ {
		var e []byte
		e = protowire.AppendString(protowire.AppendTag(e, 1, protowire.BytesType), producer)
		e = protowire.AppendVarint(protowire.AppendTag(e, 2, protowire.VarintType), n)
		e = protowire.AppendString(protowire.AppendTag(e, 3, protowire.BytesType), "orrery verify")
		request = protowire.AppendBytes(protowire.AppendTag(request, 1, protowire.BytesType), e)
	}
	status, trailer, answer, err := pulseDo(ctx, env, pod, pulsePort, http.MethodPost, "/pulse.v1.Ingest/Send", "application/grpc+proto", grpcFrame(request))
	if err != nil {
		return err
	}
	if code := trailer.Get("Grpc-Status"); status != http.StatusOK || code != "0" {
		return fmt.Errorf("status %d, gRPC status %q: %s", status, code, trailer.Get("Grpc-Message"))
	}
	if len(answer) < 5 || answer[0] != 0 {
		return errors.New("the answer is no frame of gRPC")
	}
	acknowledged, err := acknowledgedResults(answer[5:])
	if err != nil {
		return err
	}
	if want := last - first + 1; acknowledged != want {
		return fmt.Errorf("%d of %d events are acknowledged", acknowledged, want)
	}
	return nil
}

// acknowledgedResults counts the results of a SendResponse whose status is ACKNOWLEDGED.
func acknowledgedResults(response []byte) (n uint64, err error) {
	bad := errors.New("the answer is no SendResponse")
	for len(response) > 0 {
		number, kind, size := protowire.ConsumeTag(response)
		if size < 0 || number != 1 || kind != protowire.BytesType {
			return 0, bad
		}
		result, length := protowire.ConsumeBytes(response[size:])
		if length < 0 {
			return 0, bad
		}
		response = response[size+length:]
		for len(result) > 0 {
			number, kind, size := protowire.ConsumeTag(result)
			if size < 0 {
				return 0, bad
			}
			length := protowire.ConsumeFieldValue(number, kind, result[size:])
			if length < 0 {
				return 0, bad
			}
			if v, _ := protowire.ConsumeVarint(result[size:]); number == 2 && kind == protowire.VarintType && v == 1 {
				n++
			}
			result = result[size+length:]
		}
	}
	return n, nil
}

func pulseGet(ctx context.Context, env Env, pod string, port int, path string) (int, []byte, error) {
	status, _, body, err := pulseDo(ctx, env, pod, port, http.MethodGet, path, "", nil)
	return status, body, err
}

// pulseDo makes one request to a pod, HTTP/2 without TLS for gRPC.
func pulseDo(ctx context.Context, env Env, pod string, port int, method, path, contentType string, body []byte) (status int, trailer http.Header, answer []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	address, stop, err := env.Client.PortForward(ctx, pulseNamespace, pod, port)
	if err != nil {
		return 0, nil, nil, err
	}
	defer stop()
	protocols := new(http.Protocols)
	grpc := strings.HasPrefix(contentType, "application/grpc")
	protocols.SetHTTP1(!grpc)
	protocols.SetUnencryptedHTTP2(grpc)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, method, "http://"+address+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, err
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	if grpc {
		request.Header.Set("Te", "trailers")
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return 0, nil, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(response.Body, 16<<20))
	if err != nil {
		return 0, nil, nil, fmt.Errorf("read the answer: %w", err)
	}
	trailer = response.Trailer
	if trailer.Get("Grpc-Status") == "" { // an answer of headers alone
		trailer = response.Header
	}
	return response.StatusCode, trailer, answer, nil
}
