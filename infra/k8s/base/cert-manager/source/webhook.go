package main

import (
	"github.com/cert-manager/cert-manager/internal/webhook"
	logf "github.com/cert-manager/cert-manager/pkg/logs"
	"github.com/cert-manager/cert-manager/pkg/webhook/options"
	"github.com/cert-manager/cert-manager/pkg/webhook/server"
)

// newWebhook is what refuses certificates and issuers that make no sense, and requests in
// somebody else's name.
func newWebhook(c config) (*server.Server, error) {
	o, err := options.NewWebhookConfiguration()
	if err != nil {
		return nil, err
	}
	o.KubeConfig = c.kubeconfig
	o.SecurePort, o.HealthzPort = int32(c.webhook), int32(c.health) // #nosec G115 -- ports
	o.MetricsListenAddress = "0"
	o.TLSConfig.Filesystem.CertFile, o.TLSConfig.Filesystem.KeyFile = c.cert, c.key
	return webhook.NewCertManagerWebhookServer(logf.Log, *o)
}
