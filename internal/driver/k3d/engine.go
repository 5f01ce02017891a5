package k3d

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/unixhttp"
)

// engine is as much of Docker's API as is needed, which Podman's socket speaks too. k3d finds the
// engine in the same way.
type engine struct {
	address string // as DOCKER_HOST has it
	http    *http.Client
}

// apiVersion is Docker 20.10's: k3d needs that.
const apiVersion = "/v1.41"

// engineError is an answer that is no success.
type engineError struct {
	code    int
	message string
}

func (e *engineError) Error() string { return e.message }

func isGone(err error) bool {
	var e *engineError
	return errors.As(err, &e) && e.code == http.StatusNotFound
}

// newEngine looks at nothing. getenv is [os.Getenv].
func newEngine(getenv func(string) string) (*engine, error) {
	address := getenv("DOCKER_HOST")
	if address == "" {
		address = "unix:///var/run/docker.sock"
		for _, s := range []string{filepath.Join(getenv("XDG_RUNTIME_DIR"), "docker.sock"), filepath.Join(getenv("HOME"), ".docker", "run", "docker.sock")} {
			if _, err := os.Stat("/var/run/docker.sock"); err == nil {
				break
			}
			if _, err := os.Stat(s); err == nil {
				address = "unix://" + s
				break
			}
		}
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, failure.Usagef("DOCKER_HOST=%s: %v", address, err)
	}
	network, at := u.Scheme, cmp.Or(u.Host, u.Path)
	switch {
	case u.Scheme == "unix":
		at = u.Path
	case u.Scheme == "tcp" && getenv("DOCKER_TLS_VERIFY") == "":
	default:
		return nil, failure.Usagef("DOCKER_HOST=%s: orrery speaks to engines at unix:///PATH and tcp://HOST:PORT without TLS; for another machine's, "+
			"'ssh -L /tmp/engine.sock:/var/run/docker.sock HOST' and DOCKER_HOST=unix:///tmp/engine.sock", address)
	}
	return &engine{address: address, http: &http.Client{Transport: unixhttp.Transport(network, at)}}, nil
}

// why says what to do about an engine that cannot be asked.
func (e *engine) why(err error) error {
	switch {
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("the engine at %s does not let this user in: join its group ('sudo usermod -aG docker $USER', then log in anew), or set DOCKER_HOST to one that does: %w", e.address, err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no container engine answers at %s: start Docker or Podman's socket, or set DOCKER_HOST: %w", e.address, err)
	}
	return err
}

// base is what every path begins with.
const base = "http://engine" + apiVersion

// do asks with a body as JSON, unless it is nil; the caller closes the answer.
func (e *engine) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	req, err := unixhttp.Request(ctx, method, base+path, body)
	if err != nil {
		return nil, err
	}
	return e.send(req)
}

func (e *engine) send(req *http.Request) (*http.Response, error) {
	r, err := e.http.Do(req)
	if err != nil {
		return nil, e.why(err)
	}
	if r.StatusCode/100 == 2 || r.StatusCode == http.StatusNotModified {
		return r, nil
	}
	defer r.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	var said struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(b, &said) != nil || said.Message == "" {
		said.Message = string(bytes.TrimSpace(b))
	}
	return nil, &engineError{r.StatusCode, "the engine: " + told(said.Message)}
}

// told is what the engine said, with what to do about it where that is known.
func told(message string) string {
	if strings.Contains(message, "no space left on device") {
		return message + "; free some of the engine's disk ('docker system df')"
	}
	return message
}

// call decodes the answer into what, unless that is nil.
func (e *engine) call(ctx context.Context, method, path string, body, into any) error {
	r, err := e.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if into == nil {
		_, err := io.Copy(io.Discard, r.Body)
		return err
	}
	return json.NewDecoder(r.Body).Decode(into)
}

// engineInfo is what preflight looks at.
type engineInfo struct {
	ServerVersion   string
	OSType          string
	Architecture    string
	CgroupVersion   string
	KernelVersion   string
	CgroupDriver    string
	Driver          string
	MemTotal        int64
	NCPU            int
	SecurityOptions []string
	OperatingSystem string
	Name            string
}

func (e *engine) info(ctx context.Context) (i engineInfo, err error) {
	return i, e.call(ctx, http.MethodGet, "/info", nil, &i)
}

// container as lists of them have it.
type container struct {
	ID       string `json:"Id"`
	Names    []string
	State    string // created, running, restarting, exited, …
	Labels   map[string]string
	Networks struct {
		Networks map[string]struct{ IPAddress string }
	} `json:"NetworkSettings"`
	Ports []struct {
		IP                      string
		PublicPort, PrivatePort int
	}
	Mounts []struct{ Type, Name string }
}

func (c container) name() string {
	if len(c.Names) == 0 {
		return c.ID
	}
	return strings.TrimPrefix(c.Names[0], "/")
}

// filters as the API wants them.
func filters(kind string, values ...string) string {
	b, _ := json.Marshal(map[string][]string{kind: values}) //nolint:errchkjson // strings only
	return "filters=" + url.QueryEscape(string(b))
}

func (e *engine) containers(ctx context.Context, labels ...string) (list []container, err error) {
	return list, e.call(ctx, http.MethodGet, "/containers/json?all=true&"+filters("label", labels...), nil, &list)
}

type named struct {
	Name   string
	Labels map[string]string
}

func (e *engine) networks(ctx context.Context, labels ...string) (list []named, err error) {
	return list, e.call(ctx, http.MethodGet, "/networks?"+filters("label", labels...), nil, &list)
}

func (e *engine) volumes(ctx context.Context, labels ...string) ([]named, error) {
	var answer struct{ Volumes []named }
	err := e.call(ctx, http.MethodGet, "/volumes?"+filters("label", labels...), nil, &answer)
	return answer.Volumes, err
}

func (e *engine) hasImage(ctx context.Context, tag string) (bool, error) {
	err := e.call(ctx, http.MethodGet, "/images/"+tag+"/json", nil, nil)
	if isGone(err) {
		return false, nil
	}
	return err == nil, err
}

// load gives an image to the engine, unless it has it.
func (e *engine) load(ctx context.Context, i *image) (tag string, err error) {
	if tag, err = i.tag(); err != nil {
		return "", err
	}
	if have, err := e.hasImage(ctx, tag); err != nil || have {
		return tag, err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(i.save(w)) }()
	defer r.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/images/load?quiet=true", r)
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-tar")
	answer, err := e.send(req)
	if err != nil {
		return "", fmt.Errorf("give image %s to the engine: %w", tag, err)
	}
	defer answer.Body.Close()
	if err := progress(answer.Body); err != nil {
		return "", fmt.Errorf("give image %s to the engine: %w", tag, err)
	}
	return tag, nil
}

// progress reads what the engine says while it takes an image, of which an error is the last.
func progress(r io.Reader) error {
	d := json.NewDecoder(r)
	for {
		var line struct {
			Error string `json:"error"`
		}
		switch err := d.Decode(&line); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case line.Error != "":
			return errors.New(told(line.Error))
		}
	}
}

// pull has the engine take an image from its registry, unless it has it.
func (e *engine) pull(ctx context.Context, ref string) (string, error) {
	ref, err := pinned(ref)
	if err != nil {
		return "", err
	}
	if have, err := e.hasImage(ctx, ref); err != nil || have {
		return ref, err
	}
	name, digest, _ := strings.Cut(ref, "@")
	r, err := e.do(ctx, http.MethodPost, "/images/create?fromImage="+url.QueryEscape(name)+"&tag="+digest, nil)
	if err == nil {
		defer r.Body.Close()
		err = progress(r.Body)
	}
	if err != nil {
		return "", fmt.Errorf("pull image %s: %w", ref, err)
	}
	return ref, nil
}

// offered is nil when a registry has the image for the engine, which asks it and pulls nothing.
func (e *engine) offered(ctx context.Context, ref string) error {
	return e.call(ctx, http.MethodGet, "/distribution/"+ref+"/json", nil, nil)
}

func (e *engine) post(ctx context.Context, path string) error {
	return e.call(ctx, http.MethodPost, path, nil, nil)
}

func (e *engine) remove(ctx context.Context, id string) error {
	err := e.call(ctx, http.MethodDelete, "/containers/"+id+"?v=true&force=true", nil, nil)
	if isGone(err) {
		return nil
	}
	return err
}

// logs copies what a container wrote. What it wrote comes in frames.
func (e *engine) logs(ctx context.Context, id string, follow bool, w io.Writer) error {
	r, err := e.do(ctx, http.MethodGet, "/containers/"+id+"/logs?stdout=true&stderr=true&follow="+strconv.FormatBool(follow), nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	return unframe(w, r.Body)
}

// unframe takes the streams of a container apart: eight bytes before each part say of which stream
// it is, and how long.
func unframe(w io.Writer, r io.Reader) error {
	in := bufio.NewReader(r)
	var head [8]byte
	for {
		if _, err := io.ReadFull(in, head[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if _, err := io.CopyN(w, in, int64(binary.BigEndian.Uint32(head[4:]))); err != nil {
			return err
		}
	}
}

// run runs a command in a container and copies what it writes.
func (e *engine) run(ctx context.Context, id string, args []string, w io.Writer) error {
	var made struct {
		ID string `json:"Id"`
	}
	if err := e.call(ctx, http.MethodPost, "/containers/"+id+"/exec", map[string]any{"AttachStdout": true, "AttachStderr": true, "Cmd": args}, &made); err != nil {
		return err
	}
	r, err := e.do(ctx, http.MethodPost, "/exec/"+made.ID+"/start", map[string]bool{"Detach": false, "Tty": false})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { r.Body.Close() })
	defer stop()
	defer r.Body.Close()
	if err := unframe(w, r.Body); err != nil {
		return cmp.Or(ctx.Err(), err)
	}
	var ended struct{ ExitCode int }
	if err := e.call(ctx, http.MethodGet, "/exec/"+made.ID+"/json", nil, &ended); err != nil {
		return err
	}
	if ended.ExitCode != 0 {
		return fmt.Errorf("%s in %s: exit code %d", args[0], id, ended.ExitCode)
	}
	return nil
}
