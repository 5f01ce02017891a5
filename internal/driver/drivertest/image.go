package drivertest

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/proc"
)

// A program that is both a pod sandbox and a workload: with no argument it waits for a
// signal; "serve ADDRESS TEXT" answers every request with TEXT, "get URL" prints an answer.
const program = `package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 3 && os.Args[1] == "serve" {
		panic(http.ListenAndServe(os.Args[2], http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, os.Args[3]) })))
	}
	if len(os.Args) > 2 && os.Args[1] == "get" {
		r, err := (&http.Client{Timeout: 5 * time.Second}).Get(os.Args[2])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		io.Copy(os.Stdout, r.Body)
		return
	}
	c := make(chan os.Signal, 16)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for s := range c {
		for s == syscall.SIGCHLD {
			if p, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); p <= 0 || err != nil {
				break
			}
		}
		if s != syscall.SIGCHLD {
			return
		}
	}
}
`

// PushImage compiles a small program and pushes it to the mirror as each of
// the repositories with tags, such as "pause:1". dir is for the build.
func PushImage(ctx context.Context, dir string, to mirror.Mirror, repositories ...string) error {
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(program), 0o644); err != nil {
		return err
	}
	binary := filepath.Join(dir, "program")
	err := proc.Run(ctx, &proc.Cmd{Path: "go", Args: []string{"build", "-trimpath", "-ldflags=-s -w", "-o", binary, "main.go"}, Dir: dir,
		Env: append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GO111MODULE=off")})
	if err != nil {
		return err
	}
	image, err := scratch(binary)
	if err != nil {
		return err
	}
	for _, r := range repositories {
		ref, err := name.ParseReference(to.Address+"/"+r, name.Insecure)
		if err != nil {
			return err
		}
		if err := remote.Write(ref, image, remote.WithContext(ctx), remote.WithAuth(to)); err != nil {
			return fmt.Errorf("push %s: %w", ref, err)
		}
	}
	return nil
}

// scratch is an image that holds one program.
func scratch(binary string) (v1.Image, error) {
	b, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Name: "program", Mode: 0o755, Size: int64(len(b))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(b); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, static.NewLayer(buf.Bytes(), types.DockerUncompressedLayer))
	if err != nil {
		return nil, err
	}
	f, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	f = f.DeepCopy()
	f.Architecture, f.OS = "amd64", "linux"
	f.Config.Entrypoint = []string{"/program"}
	f.Config.User = "65532:65532"
	return mutate.ConfigFile(image, f)
}
