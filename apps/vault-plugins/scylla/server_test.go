package scylla

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// server stands in for ScyllaDB: version 4 of the protocol, as much of it as the driver needs to
// connect, and the statements about roles.
type server struct {
	listener net.Listener
	open     sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
	roles map[string]*cqlRole
	fail  string // what a statement has in it that is refused
	ran   []string
}

type cqlRole struct {
	password string
	login    bool
	grants   []string
}

func startServer(t testing.TB) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{listener: l, conns: map[net.Conn]bool{}, roles: map[string]*cqlRole{"maker": {password: "first", login: true}}}
	s.open.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns[c] = true
			s.mu.Unlock()
			s.open.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		for c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		s.open.Wait()
	})
	return s
}

func (s *server) address() string { return s.listener.Addr().String() }

func (s *server) role(name string) *cqlRole {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.roles[name]
}

const (
	opError, opStartup, opAuthenticate, opOptions, opSupported  = 0x00, 0x01, 0x03, 0x05, 0x06
	opQuery, opResult, opRegister, opReady, opAuth, opAuthGiven = 0x07, 0x08, 0x0B, 0x02, 0x0F, 0x10
	codeSyntax, codeCredentials, codeUnauthorized, codeInvalid  = 0x2000, 0x0100, 0x2100, 0x2200
)

func (s *server) serve(c net.Conn) {
	defer c.Close()
	user := ""
	for {
		head := make([]byte, 9)
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[5:]))
		if _, err := io.ReadFull(c, body); err != nil {
			return
		}
		op, answer := byte(opReady), []byte(nil)
		switch head[4] {
		case opOptions:
			op, answer = opSupported, []byte{0, 0}
		case opStartup:
			op, answer = opAuthenticate, str("org.apache.cassandra.auth.PasswordAuthenticator")
		case opAuth:
			parts := bytes.Split(body[4:], []byte{0})
			s.mu.Lock()
			r := s.roles[string(parts[1])]
			if r != nil && r.login && r.password == string(parts[2]) {
				user = string(parts[1])
				op, answer = opAuthGiven, num(-1)
			} else {
				op, answer = opError, append(num(codeCredentials), str("Username and/or password are incorrect")...)
			}
			s.mu.Unlock()
		case opQuery:
			op, answer = s.query(user, string(body[4:4+binary.BigEndian.Uint32(body)]))
		}
		out := append([]byte{0x84, 0, head[2], head[3], op}, num(len(answer))...)
		if _, err := c.Write(append(out, answer...)); err != nil {
			return
		}
	}
}

var (
	create = regexp.MustCompile(`^CREATE ROLE "(\w+)" WITH PASSWORD = '(\w+)' AND LOGIN = true AND SUPERUSER = false$`)
	grant  = regexp.MustCompile(`^GRANT (.+) TO "(\w+)"$`)
	passwd = regexp.MustCompile(`^ALTER ROLE "(\w+)" WITH PASSWORD = '(\w+)'$`)
	lock   = regexp.MustCompile(`^ALTER ROLE "(\w+)" WITH LOGIN = false$`)
	remove = regexp.MustCompile(`^DROP ROLE IF EXISTS "(\w+)"$`)
)

func (s *server) query(user, statement string) (op byte, answer []byte) {
	refuse := func(code int, why string) (byte, []byte) { return opError, append(num(code), str(why)...) }
	s.mu.Lock()
	defer s.mu.Unlock()
	void := num(1)
	switch {
	case strings.HasPrefix(statement, "SELECT * FROM system.local"):
		return opResult, local(true)
	case strings.HasPrefix(statement, "SELECT schema_version"):
		return opResult, local(true)
	case strings.HasPrefix(statement, "SELECT * FROM system.peers_v2"):
		return refuse(codeInvalid, "no such table")
	case strings.HasPrefix(statement, "SELECT "):
		return opResult, local(false)
	case s.roles[user] == nil:
		return refuse(codeUnauthorized, "the role is gone")
	}
	s.ran = append(s.ran, statement)
	if s.fail != "" && strings.Contains(statement, s.fail) {
		return refuse(codeInvalid, "refused by the test")
	}
	if user != "maker" {
		return refuse(codeUnauthorized, "only maker makes roles")
	}
	if m := create.FindStringSubmatch(statement); m != nil {
		s.roles[m[1]] = &cqlRole{password: m[2], login: true}
		return opResult, void
	}
	if m := remove.FindStringSubmatch(statement); m != nil {
		delete(s.roles, m[1])
		return opResult, void
	}
	var r *cqlRole
	for pattern, do := range map[*regexp.Regexp]func(m []string){
		grant: func(m []string) { r.grants = append(r.grants, m[1]) }, passwd: func(m []string) { r.password = m[2] }, lock: func([]string) { r.login = false },
	} {
		m := pattern.FindStringSubmatch(statement)
		if m == nil {
			continue
		}
		name := m[1]
		if pattern == grant {
			name = m[2]
		}
		if r = s.roles[name]; r == nil {
			return refuse(codeInvalid, name+" doesn't exist")
		}
		do(m)
		return opResult, void
	}
	return refuse(codeSyntax, "not understood: "+statement)
}

func num(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(int32(n))) }

func str(s string) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...) }

func value(b []byte) []byte { return append(num(len(b)), b...) }

// local is system.local's row, or a result of the same columns without any.
func local(row bool) []byte {
	const text, uuid, inet = 0x0D, 0x0C, 0x10
	columns := []struct {
		name  string
		kind  uint16
		value []byte
	}{
		{"schema_version", uuid, bytes.Repeat([]byte{1}, 16)}, {"key", text, []byte("local")}, {"cluster_name", text, []byte("test")},
		{"data_center", text, []byte("dc")}, {"rack", text, []byte("a")}, {"host_id", uuid, bytes.Repeat([]byte{2}, 16)},
		{"release_version", text, []byte("3.0.8")}, {"partitioner", text, []byte("org.apache.cassandra.dht.Murmur3Partitioner")},
		{"rpc_address", inet, []byte{127, 0, 0, 1}}, {"broadcast_address", inet, []byte{127, 0, 0, 1}}, {"listen_address", inet, []byte{127, 0, 0, 1}},
	}
	out := append(num(2), num(1)...) // rows; one table for all columns
	out = append(out, num(len(columns))...)
	out = append(append(out, str("system")...), str("local")...)
	for _, c := range columns {
		out = binary.BigEndian.AppendUint16(append(out, str(c.name)...), c.kind)
	}
	if !row {
		return append(out, num(0)...)
	}
	out = append(out, num(1)...)
	for _, c := range columns {
		out = append(out, value(c.value)...)
	}
	return out
}

func (s *server) String() string { return fmt.Sprint(s.ran) }
