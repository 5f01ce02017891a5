// Command misconfig looks at Kubernetes objects with the checks of misconfiguration that trivy has in
// itself, and prints a line of JSON for each that an object fails. It fetches nothing.
//
//	misconfig DIR   (a file in it for each object)
//
// trivy's own command line would bring clients of three clouds and minutes more to compile.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/aquasecurity/trivy/pkg/iac/rego"
	"github.com/aquasecurity/trivy/pkg/iac/scanners/kubernetes"
)

// failed is a line of the output.
type failed struct {
	File     string `json:"file"`
	Check    string `json:"check"`
	Severity string `json:"severity"`
	Title    string `json:"title"`
	Detail   string `json:"detail"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "misconfig:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 {
		return errors.New("want one folder of Kubernetes objects")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	scanner := kubernetes.NewScanner(
		rego.WithEmbeddedPolicies(true), rego.WithEmbeddedLibraries(true), rego.WithPolicyNamespaces("builtin"))
	results, err := scanner.ScanFS(ctx, os.DirFS(os.Args[1]), ".")
	if err != nil {
		return err
	}
	// Every check was run on every object, or there was nothing to look at.
	if len(results) == 0 {
		return fmt.Errorf("no check was run on anything in %s", os.Args[1])
	}
	out := json.NewEncoder(os.Stdout)
	for _, r := range results.GetFailed() {
		err := out.Encode(failed{r.Range().GetFilename(), r.Rule().ID, string(r.Severity()), r.Rule().Summary, r.Description()})
		if err != nil {
			return err
		}
	}
	return nil
}
