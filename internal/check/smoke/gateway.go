package smoke

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
)

// Names of the otel-collector component; see infra/k8s/base/otel-collector.
const (
	gatewayNamespace = "observability"
	gatewaySelector  = "app.kubernetes.io/name=otel-gateway"
	gatewayPort      = 4318 // OTLP over HTTP
	gatewayTLSSecret = "otel-gateway-tls"
	gatewayName      = "otel-gateway.observability.svc" // in its certificate, whatever pod a forward leads to
)

// sendOTLP posts a request in OTLP's JSON form (opentelemetry-proto, "JSON Protobuf
// Encoding") to a ready pod of the gateway. Signal is "traces", "metrics" or "logs". It
// fails when the gateway took less than all of it.
func sendOTLP(ctx context.Context, env Env, signal string, request any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	pods, err := env.Client.List(ctx, "v1", "Pod", gatewayNamespace, gatewaySelector)
	if err != nil {
		return fmt.Errorf("list the pods of the gateway: %w", err)
	}
	err = errors.New("no pod of the gateway is Ready")
	for i := range pods {
		if ready(&pods[i]) {
			if err = postOTLP(ctx, env, pods[i].GetName(), signal, body); err == nil {
				return nil
			}
		}
	}
	return err
}

func postOTLP(ctx context.Context, env Env, pod, signal string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	address, stop, err := env.Client.PortForward(ctx, gatewayNamespace, pod, gatewayPort)
	if err != nil {
		return fmt.Errorf("reach %s: %w", pod, err)
	}
	defer stop()
	roots, err := authorityOf(ctx, env, gatewayNamespace, gatewayTLSSecret)
	if err != nil {
		return fmt.Errorf("reach %s: %w", pod, err)
	}
	secure := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: roots, ServerName: gatewayName, MinVersion: tls.VersionTLS12},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+address+"/v1/"+signal, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := (&http.Client{Transport: secure}).Do(request)
	if err != nil {
		return fmt.Errorf("send %s to %s: %w", signal, pod, err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("send %s to %s: %w", signal, pod, err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s refuses %s: %s: %s", pod, signal, response.Status, strings.TrimSpace(string(answer)))
	}
	var partial struct {
		PartialSuccess struct {
			Message string `json:"errorMessage"`
		} `json:"partialSuccess"`
	}
	if json.Unmarshal(answer, &partial) == nil && partial.PartialSuccess.Message != "" {
		return check.Final(fmt.Errorf("%s took %s only in part: %s", pod, signal, partial.PartialSuccess.Message))
	}
	return nil
}

// attribute of OTLP's JSON form.
func attribute(key, value string) map[string]any {
	return map[string]any{"key": key, "value": map[string]any{"stringValue": value}}
}

// nanos is a time as OTLP's JSON form writes it.
func nanos(t time.Time) string { return strconv.FormatInt(t.UnixNano(), 10) }
