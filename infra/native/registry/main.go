// Command registry is the mirror that every node pulls from: the distribution project's
// registry with the file system as its only storage.
//
// Leaving the cloud drivers out (S3, GCS, Azure) takes their SDKs out of the build, which
// is most of its cost. Configuration and the commands serve and garbage-collect are
// upstream's.
package main

import (
	"os"

	"github.com/distribution/distribution/v3/registry"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
)

func main() {
	if err := registry.RootCmd.Execute(); err != nil {
		os.Exit(1)
	}
}
