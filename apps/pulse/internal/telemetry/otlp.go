package telemetry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"connectrpc.com/connect"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"
)

// uploader sends spans to an OTLP gateway over gRPC. The exporters of OpenTelemetry link
// a whole gRPC implementation, which this program has no other use for; the protocol is
// one unary call, see opentelemetry/proto/collector/trace/v1/trace_service.proto.
type uploader struct {
	transport *http.Transport
	client    *connect.Client[tracepb.TracesData, emptypb.Empty]
	timeout   time.Duration
}

// exportProcedure is the one call of OTLP for traces.
const exportProcedure = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

// newUploader to http://HOST:PORT (cleartext HTTP/2) or https://HOST:PORT.
func newUploader(endpoint string, timeout time.Duration) (*uploader, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("OTLP endpoint %q: must be http://HOST:PORT or https://HOST:PORT", endpoint)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP2(u.Scheme == "https")
	protocols.SetUnencryptedHTTP2(u.Scheme == "http")
	transport := &http.Transport{
		Protocols:       protocols,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		IdleConnTimeout: time.Minute,
		HTTP2:           &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second},
	}
	return &uploader{
		transport: transport,
		timeout:   timeout,
		client: connect.NewClient[tracepb.TracesData, emptypb.Empty](&http.Client{Transport: transport},
			u.Scheme+"://"+u.Host+exportProcedure, connect.WithGRPC()),
	}, nil
}

// Start implements otlptrace.Client.
func (*uploader) Start(context.Context) error { return nil }

// Stop implements otlptrace.Client.
func (u *uploader) Stop(context.Context) error {
	u.transport.CloseIdleConnections()
	return nil
}

// UploadTraces implements otlptrace.Client. It tries once: the queue before it is
// bounded, and spans are not worth holding up others for.
func (u *uploader) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	ctx, cancel := context.WithTimeout(ctx, u.timeout)
	defer cancel()
	// The request has the same fields as TracesData, under the same numbers; the answer's
	// end up in the unknown ones.
	answer, err := u.client.CallUnary(ctx, connect.NewRequest(&tracepb.TracesData{ResourceSpans: spans}))
	if err != nil {
		return fmt.Errorf("send spans to the OTLP gateway: %w", err)
	}
	if rejected, why := partialSuccess(answer.Msg.ProtoReflect().GetUnknown()); rejected > 0 {
		return fmt.Errorf("the OTLP gateway rejected %d spans: %s", rejected, why)
	}
	return nil
}

// partialSuccess reads ExportTraceServiceResponse{1: {1: rejected, 2: message}}.
func partialSuccess(response []byte) (rejected int64, message string) {
	_ = walk(response, func(n protowire.Number, _ uint64, inner []byte) {
		if n == 1 {
			_ = walk(inner, func(n protowire.Number, v uint64, text []byte) {
				switch n {
				case 1:
					rejected = int64(v)
				case 2:
					message = string(text)
				}
			})
		}
	})
	return rejected, message
}

var errWire = errors.New("malformed protobuf")

// walk calls f with each varint or length-delimited field.
func walk(b []byte, f func(n protowire.Number, v uint64, inner []byte)) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errWire
		}
		b = b[n:]
		var v uint64
		var inner []byte
		switch kind {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			inner, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return errWire
		}
		b = b[n:]
		if kind == protowire.VarintType || kind == protowire.BytesType {
			f(number, v, inner)
		}
	}
	return nil
}
