package kubetest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// Exec is a command that somebody wants to be run in a container.
type Exec struct {
	Namespace, Pod, Container string
	Command                   []string
}

// HandleExec has commands answered by run: what it returns is printed, and an error is its
// text on standard error and the exit status 1. Without one, exec is refused.
func (s *Server) HandleExec(run func(Exec) (stdout string, err error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run = run
}

// execProtocol is that of WebSockets: https://kep.k8s.io/4006. Clients that offer nothing else
// than SPDY are refused.
const execProtocol = "v5.channel.k8s.io"

// serveExec answers outside of the lock: what it runs may ask the server.
func (s *Server) serveExec(w http.ResponseWriter, r *http.Request, e Exec) {
	s.mu.Lock()
	run := s.run
	pod := s.objects[key{"", "Pod", e.Namespace, e.Pod}]
	s.mu.Unlock()
	switch {
	case pod == nil:
		reply(w, http.StatusNotFound, failure(http.StatusNotFound, fmt.Sprintf("pods %q not found", e.Pod)))
		return
	case text(pod, "status", "phase") != "Running":
		reply(w, http.StatusInternalServerError, failure(http.StatusInternalServerError, "the pod does not run"))
		return
	case run == nil:
		reply(w, http.StatusForbidden, failure(http.StatusForbidden, "the test's API server runs no commands: see HandleExec"))
		return
	}
	channels := []wsstream.ChannelType{wsstream.ReadChannel, wsstream.WriteChannel, wsstream.WriteChannel, wsstream.WriteChannel,
		wsstream.ReadChannel}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{execProtocol: {Binary: true, Channels: channels}})
	quiet := klog.NewContext(r.Context(), klog.Logger{}) // that we hang up is no error
	_, streams, err := conn.Open(w, r.WithContext(quiet))
	if err != nil {
		return // it has answered, or there is nobody to answer
	}
	defer conn.Close()
	out, err := run(e)
	_, _ = io.WriteString(streams[1], out)
	status := metav1.Status{Status: metav1.StatusSuccess}
	if err != nil {
		_, _ = io.WriteString(streams[2], err.Error())
		status = metav1.Status{
			Status: metav1.StatusFailure, Reason: "NonZeroExitCode", Message: "command terminated with exit code 1",
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: "ExitCode", Message: "1"}}},
		}
	}
	_ = json.NewEncoder(streams[3]).Encode(status)
}
