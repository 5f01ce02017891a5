// Command otelcol is the OpenTelemetry Collector with the parts that this platform's two
// configurations name, and no others: the contrib distribution costs five times as much
// to build.
//
//	otelcol --config FILE    runs it
//	otelcol prepare DIR      makes DIR and lets the group write to it; see prepare
package main

import (
	"fmt"
	"os"

	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/healthcheckextension"
	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage"
	"github.com/open-telemetry/opentelemetry-collector-contrib/receiver/filelogreceiver"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/envprovider"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/otlphttpexporter"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/memorylimiterprocessor"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"

	"github.com/orrery-dev/orrery/infra/k8s/base/otel-collector/source/final"
	"github.com/orrery-dev/orrery/infra/k8s/base/otel-collector/source/flushed"
	"github.com/orrery-dev/orrery/infra/k8s/base/otel-collector/source/split"
	"github.com/orrery-dev/orrery/infra/k8s/base/otel-collector/source/unread"
)

// version of the collector's modules; see go.mod.
const version = "0.149.0"

func main() {
	if len(os.Args) > 1 && os.Args[1] == "prepare" {
		if err := prepare(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "otelcol prepare:", err)
			os.Exit(1)
		}
		return
	}
	cmd := otelcol.NewCommand(otelcol.CollectorSettings{
		BuildInfo: component.BuildInfo{Command: "otelcol", Description: "OpenTelemetry Collector of Orrery", Version: version},
		Factories: factories,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{ResolverSettings: confmap.ResolverSettings{
			ProviderFactories: []confmap.ProviderFactory{fileprovider.NewFactory(), envprovider.NewFactory()},
		}},
	})
	if err := cmd.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "otelcol:", err)
		os.Exit(1)
	}
}

// factories are the parts that a configuration can name.
func factories() (otelcol.Factories, error) {
	unread.Register()
	f := otelcol.Factories{Telemetry: otelconftelemetry.NewFactory()}
	var err error
	if f.Receivers, err = otelcol.MakeFactoryMap[receiver.Factory](otlpreceiver.NewFactory(), filelogreceiver.NewFactory()); err != nil {
		return f, err
	}
	if f.Processors, err = otelcol.MakeFactoryMap[processor.Factory](memorylimiterprocessor.NewFactory()); err != nil {
		return f, err
	}
	if f.Exporters, err = otelcol.MakeFactoryMap[exporter.Factory](otlphttpexporter.NewFactory()); err != nil {
		return f, err
	}
	f.Extensions, err = otelcol.MakeFactoryMap[extension.Factory](
		healthcheckextension.NewFactory(), filestorage.NewFactory(), flushed.NewFactory(), final.NewFactory(), split.NewFactory())
	return f, err
}

// prepare makes a folder of the host writable for the group that the collector runs as.
// A hostPath is made by the kubelet as root:root 0755, and no volume setting changes that.
// As the folder's owner, root may do this without any capability; the collector itself
// then need not be root.
func prepare(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("want one folder, got %q", args)
	}
	if err := os.MkdirAll(args[0], 0o770); err != nil {
		return err
	}
	return os.Chmod(args[0], 0o770)
}
