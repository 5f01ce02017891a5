package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
)

// program is one of those under test. It can be killed and started again.
type program struct {
	name  string
	path  string
	args  []string
	env   []string
	ready string // URL that answers 200
	cmd   *exec.Cmd
	log   *os.File
	cpu   time.Duration // of runs that have ended
}

func (p *program) start() error {
	p.cmd = exec.Command(p.path, p.args...)
	p.cmd.Env = append(os.Environ(), p.env...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	return nil
}

func (p *program) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if _, err := get(ctx, p.ready); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after a minute; see %s", p.name, p.log.Name())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// kill ends it as a power cut of the process would.
func (p *program) kill() {
	if p.cmd == nil || p.cmd.ProcessState != nil {
		return
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // says "killed"
	p.cpu += p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
}

var peak = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// memory is the peak of the resident set, in MiB.
func (p *program) memory() float64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if m := peak.FindSubmatch(status); m != nil {
		n, _ := strconv.Atoi(string(m[1]))
		return float64(n) / 1024
	}
	return 0
}

// used is the processor time so far.
func (p *program) used() time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return p.cpu
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	u, _ := strconv.Atoi(f[11])
	s, _ := strconv.Atoi(f[12])
	return p.cpu + time.Duration(u+s)*(time.Second/100)
}

// stage is all of them, with their configurations moved to free ports and a folder.
type stage struct {
	dir   string
	ports map[string]int // name → port
	all   map[string]*program
}

// newStage builds what is not built yet and writes the configurations.
func newStage(ctx context.Context, repo, dir string) (*stage, error) {
	c, err := catalog.Load(repo)
	if err != nil {
		return nil, err
	}
	builder, err := image.NewBuilder(build.Options{CacheDir: "/var/cache/orrery", RepoRoot: repo})
	if err != nil {
		return nil, err
	}
	paths := map[string]string{}
	for _, component := range c.Components {
		for _, img := range component.Images {
			for _, b := range img.Binaries {
				if b.Name == "loki" || b.Name == "tempo" || b.Name == "otelcol" {
					if paths[b.Name], err = builder.Binary(ctx, b); err != nil {
						return nil, err
					}
				}
			}
		}
	}
	s := &stage{dir: dir, ports: map[string]int{}, all: map[string]*program{}}
	for _, name := range []string{"loki", "loki-grpc", "loki-ready", "tempo", "tempo-ready", "tempo-grpc", "tempo-otlp", "otlp-grpc", "otlp-http", "gateway", "gateway-health", "agent", "agent-health"} {
		if s.ports[name], err = freePort(); err != nil {
			return nil, err
		}
	}
	at := func(name string) string { return "127.0.0.1:" + strconv.Itoa(s.ports[name]) }
	base := filepath.Join(repo, "infra/k8s/base")
	for _, w := range []struct {
		name, file, binary, limit string
		args                      []string
		ready                     string
		replace                   []string
	}{
		{"loki", "loki/loki.yaml", "loki", "307MiB", []string{"-config.file=%s"}, "http://" + at("loki") + "/ready", []string{
			"http_listen_port: 3100", "http_listen_address: 127.0.0.1\n  http_listen_port: " + strconv.Itoa(s.ports["loki"]),
			"grpc_listen_port: 9095", "grpc_listen_port: " + strconv.Itoa(s.ports["loki-grpc"]),
			servedBy("loki", "  ", "http_tls_config:", "client_auth_type: RequireAndVerifyClientCert"), "", "/var/loki", filepath.Join(dir, "loki"),
			"http_listen_port: 3101", "http_listen_port: " + strconv.Itoa(s.ports["loki-ready"]),
		}},
		{"tempo", "tempo/tempo.yaml", "tempo", "410MiB", []string{"-config.file=%s"}, "http://" + at("tempo") + "/ready", []string{
			"http_listen_port: 3200", "http_listen_address: 127.0.0.1\n  http_listen_port: " + strconv.Itoa(s.ports["tempo"]),
			"grpc_listen_port: 9095", "grpc_listen_port: " + strconv.Itoa(s.ports["tempo-grpc"]), "0.0.0.0:4318", at("tempo-otlp"),
			servedBy("tempo", "  ", "http_tls_config:", "client_auth_type: RequireAndVerifyClientCert"), "",
			servedBy("tempo", strings.Repeat(" ", 10), "tls:", "") + "            client_ca_file_reload: true\n            reload_interval: 1m\n", "",
			"http_listen_port: 3201", "http_listen_address: 127.0.0.1\n  http_listen_port: " + strconv.Itoa(s.ports["tempo-ready"]), "/var/tempo", filepath.Join(dir, "tempo"),
		}},
		{"gateway", "otel-collector/gateway.yaml", "otelcol", "204MiB", []string{"--config", "%s"}, "http://" + at("gateway-health"), []string{
			// Everything is on loopback here, and speaks no TLS.
			"tls: &served {cert_file: /etc/otelcol-tls/tls.crt, key_file: /etc/otelcol-tls/tls.key, reload_interval: 1m}", "", ", tls: *served", "",
			"    tls: &signed\n" + signedBy, "", "tls: *signed", "", "https://", "http://",
			"0.0.0.0:4317", at("otlp-grpc"), "0.0.0.0:4318", at("otlp-http"), "tempo.observability.svc.${clusterDomain}.:4318", at("tempo-otlp"), "tempo.observability.svc.${clusterDomain}.:3201", at("tempo-ready"),
			"loki.observability.svc.${clusterDomain}.:3100", at("loki"), "prometheus.observability.svc.${clusterDomain}.:9090", "127.0.0.1:1",
			"0.0.0.0:13133", at("gateway-health"), "host: 0.0.0.0, port: 8888", "host: 127.0.0.1, port: " + strconv.Itoa(s.ports["gateway"]), "/var/lib/otelcol", filepath.Join(dir, "gateway"),
		}},
		{"agent", "otel-collector/agent.yaml", "otelcol", "102MiB", []string{"--config", "%s"}, "http://" + at("agent-health"), []string{
			"    tls:\n" + signedBy, "", "https://", "http://",
			"/var/log/pods", filepath.Join(dir, "pods"), "loki.observability.svc.${clusterDomain}.:3100", at("loki"),
			"0.0.0.0:13133", at("agent-health"), "host: 0.0.0.0, port: 8888", "host: 127.0.0.1, port: " + strconv.Itoa(s.ports["agent"]), "/var/lib/otelcol", filepath.Join(dir, "agent"),
		}},
	} {
		text, err := os.ReadFile(filepath.Join(base, w.file))
		if err != nil {
			return nil, err
		}
		for i := 0; i < len(w.replace); i += 2 {
			if !strings.Contains(string(text), w.replace[i]) {
				return nil, fmt.Errorf("%s has no %q: this bench has to follow it", w.file, w.replace[i])
			}
		}
		config := filepath.Join(dir, w.name+".yaml")
		if err := os.WriteFile(config, []byte(strings.NewReplacer(w.replace...).Replace(string(text))), 0o644); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(filepath.Join(dir, w.name), 0o755); err != nil {
			return nil, err
		}
		p := &program{name: w.name, path: paths[w.binary], ready: w.ready, env: []string{"GOMEMLIMIT=" + w.limit, "NODE_NAME=bench"}}
		for _, a := range w.args {
			p.args = append(p.args, strings.Replace(a, "%s", config, 1))
		}
		if w.binary == "otelcol" { // both on the same two cores
			p.args = append([]string{"-c", "0,1", p.path}, p.args...)
			p.path = "taskset"
		}
		if p.log, err = os.Create(filepath.Join(dir, w.name+".log")); err != nil {
			return nil, err
		}
		s.all[w.name] = p
	}
	return s, os.MkdirAll(filepath.Join(dir, "pods"), 0o755)
}

// signedBy is what collectors show and believe, as their files have it.
const signedBy = `      ca_file: /etc/otelcol-tls/ca.crt
      cert_file: /etc/otelcol-tls/tls.crt
      key_file: /etc/otelcol-tls/tls.key
      reload_interval: 1m
`

// servedBy is what a store shows and asks for, as its file has it.
func servedBy(name, indent, key, asks string) string {
	lines := indent + key + "\n"
	for _, l := range []string{"cert_file: /etc/%s-tls/tls.crt", "key_file: /etc/%s-tls/tls.key", asks, "client_ca_file: /etc/%s-tls/ca.crt"} {
		if l != "" {
			lines += indent + "  " + strings.ReplaceAll(l, "%s", name) + "\n"
		}
	}
	return lines
}

func (s *stage) start(ctx context.Context) error {
	for _, p := range s.all {
		if err := p.start(); err != nil {
			return err
		}
	}
	for _, p := range s.all {
		if err := p.await(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) stop() {
	for _, p := range s.all {
		p.kill()
		_ = p.log.Close()
	}
}

// freePort is below the range that the kernel gives to outgoing connections, one of which
// could take it before its program listens.
func freePort() (int, error) {
	var err error
	for range 100 {
		var l net.Listener
		if l, err = net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(18000+rand.IntN(14000))); err == nil {
			return l.Addr().(*net.TCPAddr).Port, l.Close()
		}
	}
	return 0, err
}

// errNone is the error of an answer with status 404.
var errNone = errors.New("not found")

func get(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return nil, err
	case response.StatusCode == http.StatusNotFound:
		return nil, errNone
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s: %s: %s", url, response.Status, strings.TrimSpace(string(body)))
	}
	return body, nil
}

// metric sums the series of a counter in Prometheus' text form.
func (s *stage) metric(ctx context.Context, of, name string) float64 {
	body, err := get(ctx, fmt.Sprintf("http://127.0.0.1:%d/metrics", s.ports[of]))
	if err != nil {
		return 0
	}
	sum := 0.0
	for line := range strings.Lines(string(body)) {
		if series, value, ok := strings.Cut(strings.TrimSpace(line), "} "); ok && (strings.HasPrefix(series, name+"{") || strings.HasPrefix(series, name+"_total{")) {
			n, _ := strconv.ParseFloat(strings.Fields(value)[0], 64)
			sum += n
		}
	}
	return sum
}
