package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"
)

// listening is a TCP port that somebody of the environment listens on.
type listening struct {
	process string
	pid     int // a process whose network namespace it is in
	address string
}

func (l listening) String() string { return l.process + " " + l.address }

// processes of the environment, by their control groups: nobody can leave these.
func (e *environment) processes(t *testing.T) map[int]string {
	t.Helper()
	all := map[int]string{}
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	mine := regexp.MustCompile(`[/-]` + regexp.QuoteMeta(e.name) + `(/|\.|\n|$)`)
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		groups, _ := os.ReadFile("/proc/" + d.Name() + "/cgroup")
		name, _ := os.ReadFile("/proc/" + d.Name() + "/comm")
		if mine.Match(groups) {
			all[pid] = strings.TrimSpace(string(name))
		}
	}
	if len(all) == 0 {
		t.Fatalf("no process of %s was found", e.name)
	}
	return all
}

// listeners are all ports, in every network namespace, that processes of the environment hold.
func (e *environment) listeners(t *testing.T) []listening {
	t.Helper()
	all := e.processes(t)
	holders := map[string]int{} // socket → process
	spaces := map[string]int{}
	for pid := range all {
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)); err == nil {
			spaces[ns] = pid
		}
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, fd := range fds {
			if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "socket:[") {
				holders[strings.Trim(to[len("socket:"):], "[]")] = pid
			}
		}
	}
	seen := map[string]bool{}
	var found []listening
	for ns, in := range spaces {
		for _, file := range []string{"tcp", "tcp6"} {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", in, file))
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(b)) {
				f := strings.Fields(line)
				if len(f) < 10 || f[3] != "0A" { // LISTEN
					continue
				}
				holder, ours := holders[f[9]]
				address, err := address(f[1])
				if !ours || err != nil || seen[ns+address] {
					continue
				}
				seen[ns+address] = true
				found = append(found, listening{all[holder], holder, address})
			}
		}
	}
	slices.SortFunc(found, func(a, b listening) int { return strings.Compare(a.String(), b.String()) })
	return found
}

// address reads one of /proc/net/tcp: words in the machine's order. What listens everywhere is
// asked on loopback.
func address(text string) (string, error) {
	host, port, _ := strings.Cut(text, ":")
	b, err := hex.DecodeString(host)
	if err != nil {
		return "", err
	}
	for i := 0; i+4 <= len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	ip, ok := netip.AddrFromSlice(b)
	if !ok {
		return "", fmt.Errorf("no address: %q", text)
	}
	if ip = ip.Unmap(); ip.IsUnspecified() {
		ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	n, err := strconv.ParseUint(port, 16, 16)
	return netip.AddrPortFrom(ip, uint16(n)).String(), err
}

// dialIn connects from the network namespace of a process.
func dialIn(ctx context.Context, pid int, address string, timeout time.Duration) (conn net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		ns, openErr := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err = openErr; err != nil {
			return
		}
		defer ns.Close()
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return
		}
		d := net.Dialer{Timeout: timeout}
		conn, err = d.DialContext(ctx, "tcp", address)
	}()
	<-done
	return conn, err
}

func (l listening) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return dialIn(ctx, l.pid, l.address, 3*time.Second)
}

// spoken is what a port speaks.
type spoken struct{ protocol, greeting, refusal string }

// speak finds out: who greets first, then TLS, then HTTP.
func (l listening) speak(ctx context.Context) spoken {
	conn, err := l.dial(ctx, "", "")
	if err != nil {
		return spoken{refusal: err.Error()}
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(300 * time.Millisecond))
	first := make([]byte, 4096)
	if n, _ := conn.Read(first); n > 0 {
		return spoken{greeting: string(first[:n])}
	}
	for _, protocol := range []string{"https", "http"} {
		client := l.client(protocol)
		_, _, err = get(ctx, client, protocol+"://"+l.address+"/", "", "")
		client.CloseIdleConnections()
		if err == nil {
			return spoken{protocol: protocol}
		}
		if strings.Contains(err.Error(), "remote error: tls") || strings.Contains(err.Error(), "certificate required") {
			return spoken{protocol: protocol, refusal: err.Error()}
		}
	}
	return spoken{refusal: err.Error()}
}

func (l listening) client(string) *http.Client {
	return &http.Client{
		Timeout:       5 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{DialContext: l.dial, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, // an attacker does not mind
	}
}

// say writes text and reads until one of the answers comes.
func (l listening) say(ctx context.Context, text string, answers ...string) string {
	conn, err := l.dial(ctx, "", "")
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := conn.Write([]byte(text)); err != nil {
		return err.Error()
	}
	var all strings.Builder
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		all.WriteString(line)
		if err != nil || slices.ContainsFunc(answers, func(a string) bool { return strings.HasPrefix(line, a) }) {
			return all.String()
		}
	}
}

func get(ctx context.Context, c *http.Client, url, authorization, host string) (int, string, error) {
	return send(ctx, c, http.MethodGet, url, authorization, host, nil)
}

func send(ctx context.Context, c *http.Client, method, url, authorization, host string, body io.Reader) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return 0, "", err
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if host != "" {
		req.Host = host
	}
	return do(c, req)
}

func sendWith(ctx context.Context, method, url, header, value string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return 0, "", err
	}
	if header == "Host" {
		req.Host = value
	} else {
		req.Header.Set(header, value)
	}
	return do(&http.Client{Timeout: 5 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, req)
}

func do(c *http.Client, req *http.Request) (int, string, error) {
	resp, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, string(b), nil
}

// api is the API as who brings only a token sees it.
func (e *environment) api(t *testing.T) (*http.Client, string) {
	t.Helper()
	b, err := os.ReadFile(e.state("kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Clusters []struct {
			Cluster struct {
				Server    string
				Authority []byte `json:"certificate-authority-data"`
			}
		}
	}
	if err := yaml.Unmarshal(b, &config); err != nil || len(config.Clusters) == 0 {
		t.Fatalf("kubeconfig: %v", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(config.Clusters[0].Cluster.Authority)
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}, config.Clusters[0].Cluster.Server
}

// asNobody runs f as another user of this machine, on a thread that ends after it.
func asNobody(t *testing.T, done chan<- struct{}, f func()) {
	defer close(done)
	runtime.LockOSThread() // and never unlocked
	const nobody = 65534
	// Of this thread only: package syscall would change all.
	for _, call := range [][4]uintptr{{unix.SYS_SETGROUPS, 0, 0, 0}, {unix.SYS_SETRESGID, nobody, nobody, nobody}, {unix.SYS_SETRESUID, nobody, nobody, nobody}} {
		if _, _, err := unix.RawSyscall(call[0], call[1], call[2], call[3]); err != 0 {
			t.Errorf("become another user: %v", err)
			return
		}
	}
	f()
}

func dialUnix(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	if errors.Is(err, unix.ENAMETOOLONG) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("its path is too long to try: %w", err)
	}
	return err
}

func globs(patterns ...string) (all []string) {
	for _, p := range patterns {
		found, _ := filepath.Glob(p)
		all = append(all, found...)
	}
	return all
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
