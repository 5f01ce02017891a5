package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/revlist"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/server"
)

// name is the repository's, in URLs and below the folder.
const name = "platform.git"

// maxRequest bounds what is read of a request, in bytes.
const maxRequest = 64 << 20

func serve(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("git serve", flag.ContinueOnError)
	dir := f.String("dir", "", "`folder` that the repository is kept in")
	listen := f.String("listen", ":8443", "`address` that everybody reads at, with TLS")
	push := f.String("listen-push", "127.0.0.1:8418", "`address` that is pushed to, without: who gets there may")
	cert := f.String("tls-cert", "", "`file` with the certificate; read again for each connection")
	key := f.String("tls-key", "", "`file` with its key")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *dir == "" || *cert == "" || *key == "" {
		return errors.New("serve: -dir, -tls-cert and -tls-key are needed")
	}
	h := newHost(*dir)
	if err := h.begin(); err != nil { // a push makes it anew, so that it goes on
		log.Printf("git: %v", err)
	}
	read := &http.Server{Addr: *listen, Handler: h.handler(false), ReadHeaderTimeout: 5 * time.Second, TLSConfig: &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(*cert, *key)
			return &pair, err
		},
	}}
	write := &http.Server{Addr: *push, Handler: h.handler(true), ReadHeaderTimeout: 5 * time.Second}
	parts, ctx := errgroup.WithContext(ctx)
	parts.Go(func() error { return read.ListenAndServeTLS("", "") })
	parts.Go(write.ListenAndServe)
	parts.Go(func() error {
		<-ctx.Done()
		return errors.Join(read.Close(), write.Close())
	})
	if err := parts.Wait(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// host serves one repository.
type host struct {
	dir     string
	git     transport.Transport
	pushing sync.Mutex
}

func newHost(dir string) *host {
	return &host{dir: dir, git: server.NewServer(server.NewFilesystemLoader(osfs.New(dir, osfs.WithBoundOS())))}
}

// begin makes the repository where there is none.
func (h *host) begin() error {
	_, err := git.PlainInitWithOptions(filepath.Join(h.dir, name), &git.PlainInitOptions{
		Bare: true, InitOptions: git.InitOptions{DefaultBranch: plumbing.NewBranchReferenceName(branch)},
	})
	if errors.Is(err, git.ErrRepositoryAlreadyExists) {
		return nil
	}
	return err
}

// handler is for those who read, or for those who push too.
func (h *host) handler(push bool) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern, form string, do func(io.Writer, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
			w.Header().Set("Cache-Control", "no-cache")
			out := &answer{to: w}
			w.Header().Set("Content-Type", cmp.Or(form, "application/x-"+r.URL.Query().Get("service")+"-advertisement"))
			if err := do(out, r); err != nil {
				log.Printf("git: %s %s: %v", r.Method, r.URL.Path, err)
				if out.begun {
					panic(http.ErrAbortHandler) // cut off, so that nobody takes it for whole
				}
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	handle("GET /"+name+"/info/refs", "", func(w io.Writer, r *http.Request) error {
		service := r.URL.Query().Get("service")
		if service == transport.ReceivePackServiceName && !push {
			return errors.New("this address is for reading: 'orrery gitops push' pushes")
		}
		return h.advertise(r.Context(), w, service)
	})
	handle("POST /"+name+"/"+transport.UploadPackServiceName, "application/x-git-upload-pack-result", h.upload)
	if push {
		handle("POST /"+name+"/"+transport.ReceivePackServiceName, "application/x-git-receive-pack-result", h.receive)
		handle("DELETE /"+name, "text/plain", func(io.Writer, *http.Request) error {
			h.pushing.Lock()
			defer h.pushing.Unlock()
			if err := os.RemoveAll(filepath.Join(h.dir, name)); err != nil {
				return err
			}
			return h.begin()
		})
	}
	return mux
}

// answer knows whether something of it is on its way.
type answer struct {
	to    io.Writer
	begun bool
}

func (a *answer) Write(b []byte) (int, error) {
	a.begun = true
	return a.to.Write(b)
}

type session interface {
	AdvertisedReferencesContext(ctx context.Context) (*packp.AdvRefs, error)
}

var endpoint = &transport.Endpoint{Path: name}

func (h *host) advertise(ctx context.Context, w io.Writer, service string) error {
	var s session
	var err error
	switch service {
	case transport.UploadPackServiceName:
		s, err = h.git.NewUploadPackSession(endpoint, nil)
	case transport.ReceivePackServiceName:
		s, err = h.git.NewReceivePackSession(endpoint, nil)
	default:
		return fmt.Errorf("there is no service %q", service)
	}
	if err != nil {
		return err
	}
	refs, err := s.AdvertisedReferencesContext(ctx)
	if err != nil {
		return err
	}
	if service == transport.ReceivePackServiceName { // go-git does not look for what a pack leaves out
		if err := refs.Capabilities.Set("no-thin"); err != nil {
			return err
		}
	}
	refs.Prefix = [][]byte{[]byte("# service=" + service), pktline.Flush}
	return refs.Encode(w)
}

func (h *host) upload(w io.Writer, r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	in := bytes.NewReader(body)
	request := packp.NewUploadPackRequest()
	if err := request.Decode(in); err != nil {
		return err
	}
	repo, err := git.PlainOpen(filepath.Join(h.dir, name))
	if err != nil {
		return err
	}
	// What the client has, go-git leaves to be read, and takes for an error where it is of another history.
	done := false
	for lines := pktline.NewScanner(in); lines.Scan(); {
		line := bytes.TrimSpace(lines.Bytes())
		if hash, ok := bytes.CutPrefix(line, []byte("have ")); ok {
			if have := plumbing.NewHash(string(hash)); repo.Storer.HasEncodedObject(have) == nil {
				request.Haves = append(request.Haves, have)
			}
		}
		done = done || string(line) == "done"
	}
	if !done { // it asks whether it has said enough
		return pktline.NewEncoder(w).EncodeString("NAK\n")
	}
	s, err := h.git.NewUploadPackSession(endpoint, nil)
	if err != nil {
		return err
	}
	response, err := s.UploadPack(r.Context(), request)
	if err != nil {
		return err
	}
	return response.Encode(w)
}

// receive takes a push of the branch that goes on from where it is: what was pushed is never lost to another push.
func (h *host) receive(w io.Writer, r *http.Request) error {
	request := packp.NewReferenceUpdateRequest()
	if err := request.Decode(r.Body); err != nil {
		return err
	}
	report := packp.NewReportStatus()
	report.UnpackStatus = "ok"
	h.pushing.Lock()
	defer h.pushing.Unlock()
	for _, c := range request.Commands {
		status := "ok"
		if err := h.update(c, request.Packfile); err != nil {
			status = err.Error()
		}
		report.CommandStatuses = append(report.CommandStatuses, &packp.CommandStatus{ReferenceName: c.Name, Status: status})
	}
	return report.Encode(w)
}

func (h *host) update(c *packp.Command, pack io.Reader) error {
	if c.Name != plumbing.NewBranchReferenceName(branch) || c.New.IsZero() {
		return fmt.Errorf("there is one branch, %s, and it stays", branch)
	}
	repo, err := git.PlainOpen(filepath.Join(h.dir, name))
	if err != nil {
		return err
	}
	switch now, err := repo.Reference(c.Name, true); {
	case errors.Is(err, plumbing.ErrReferenceNotFound):
	case err != nil:
		return err
	case now.Hash() != c.Old:
		return errors.New("somebody else has pushed meanwhile")
	}
	if pack != nil {
		if err := packfile.UpdateObjectStorage(repo.Storer, pack); err != nil && !errors.Is(err, packfile.ErrEmptyPackfile) {
			return fmt.Errorf("unpack: %w", err)
		}
	}
	if err := h.follows(repo, c); err != nil {
		return err
	}
	return repo.Storer.SetReference(plumbing.NewHashReference(c.Name, c.New))
}

// follows refuses what is not whole, and what does not go on from where the branch is.
func (h *host) follows(repo *git.Repository, c *packp.Command) error {
	all, err := revlist.Objects(repo.Storer, []plumbing.Hash{c.New}, nil)
	for _, h := range all { // files are in the list unread
		err = errors.Join(err, repo.Storer.HasEncodedObject(h))
	}
	if err != nil {
		return fmt.Errorf("not all of %s is there: %w", c.New, err)
	}
	if c.Old.IsZero() {
		return nil
	}
	before, err := repo.CommitObject(c.Old)
	if err != nil {
		return err
	}
	after, err := repo.CommitObject(c.New)
	if err != nil {
		return err
	}
	if goesOn, err := before.IsAncestor(after); err != nil || !goesOn {
		return errors.Join(errors.New("it does not go on from what was pushed before (non-fast-forward)"), err)
	}
	return nil
}
