package kubetest

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// Forward is a connection that somebody wants to a port of a pod.
type Forward struct {
	Namespace, Pod string
	Port           int
}

// HandleForward has connections to pods brought to an address of the test's machine; an error is
// what the node says against the connection. Without one, port-forward is refused.
func (s *Server) HandleForward(to func(Forward) (address string, err error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forward = to
}

// forwardProtocol is spoken over SPDY alone: clients try WebSockets first.
const forwardProtocol = "portforward.k8s.io"

// serveForward answers outside of the lock: what it asks may ask the server.
func (s *Server) serveForward(w http.ResponseWriter, r *http.Request, namespace, pod string) {
	s.mu.Lock()
	to, there := s.forward, s.objects[key{"", "Pod", namespace, pod}] != nil
	s.mu.Unlock()
	switch {
	case !there:
		reply(w, http.StatusNotFound, failure(http.StatusNotFound, fmt.Sprintf("pods %q not found", pod)))
		return
	case to == nil:
		reply(w, http.StatusForbidden, failure(http.StatusForbidden, "the test's API server forwards nothing: see HandleForward"))
		return
	case r.Method != http.MethodPost:
		reply(w, http.StatusBadRequest, failure(http.StatusBadRequest, "the test's API server forwards over SPDY"))
		return
	}
	if _, err := httpstream.Handshake(r, w, []string{forwardProtocol}); err != nil {
		return // it has answered
	}
	streams, ended := make(chan httpstream.Stream), make(chan struct{})
	defer close(ended)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(st httpstream.Stream, _ <-chan struct{}) error {
		select {
		case streams <- st:
		case <-ended:
		}
		return nil
	})
	if conn == nil {
		return // it has answered
	}
	defer conn.Close()
	complaints := map[string]httpstream.Stream{} // by the request that they are of, until its data comes
	for {
		select {
		case <-conn.CloseChan():
			return
		case st := <-streams:
			id := st.Headers().Get(corev1.PortForwardRequestIDHeader)
			if st.Headers().Get(corev1.StreamType) == corev1.StreamTypeError {
				complaints[id] = st
				continue
			}
			port, _ := strconv.Atoi(st.Headers().Get(corev1.PortHeader))
			go carry(st, complaints[id], func() (string, error) { return to(Forward{namespace, pod, port}) })
			delete(complaints, id)
		}
	}
}

func carry(data, complaint httpstream.Stream, to func() (string, error)) {
	defer complaint.Close()
	defer data.Close()
	address, err := to()
	var conn net.Conn
	if err == nil {
		conn, err = net.Dial("tcp", address)
	}
	if err != nil {
		_, _ = io.WriteString(complaint, err.Error())
		return
	}
	defer conn.Close()
	go func() {
		_, _ = io.Copy(conn, data)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(data, conn)
}

// podVerb reads /api/v1/namespaces/NAMESPACE/pods/NAME/VERB.
func podVerb(path, verb string) (namespace, pod string, ok bool) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	if len(parts) != 7 || parts[0] != "api" || parts[4] != "pods" || parts[6] != verb {
		return "", "", false
	}
	return parts[3], parts[5], true
}
