package datastore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/mod/semver"

	"github.com/orrery-dev/orrery/internal/failure"
)

// NATS is the store of JetStream: streams with their consumers, and so buckets of keys and of
// objects, which are streams.
const NATS = "nats"

const (
	streamsFolder = "streams"
	// chunkSize is below the largest message that a server takes by default.
	chunkSize = 256 << 10
	// silence is how long a server may say nothing: several elections of a starved machine.
	silence = time.Minute
)

// Stream is one that was taken or given back.
type Stream struct {
	Name      string `json:"name"`
	Messages  uint64 `json:"messages"`
	Bytes     uint64 `json:"bytes"` // of its messages
	Consumers int    `json:"consumers"`
	// Note is what a person should know about it, such as why it is left out.
	Note    string `json:"note,omitempty"`
	LeftOut bool   `json:"leftOut,omitempty"`
}

// snapshotted is a stream as the server says it, kept to the letter.
type snapshotted struct {
	Config json.RawMessage `json:"config"`
	State  json.RawMessage `json:"state"`
}

type streamState struct {
	Messages  uint64 `json:"messages"`
	Bytes     uint64 `json:"bytes"`
	FirstSeq  uint64 `json:"first_seq"`
	LastSeq   uint64 `json:"last_seq"`
	Consumers int    `json:"consumer_count"`
}

func (s snapshotted) state() (st streamState, err error) { return st, json.Unmarshal(s.State, &st) }

// apiAnswer is what every answer of JetStream's API may have.
type apiAnswer struct {
	Error *jetstream.APIError `json:"error"`
}

// ask calls JetStream's API.
func ask(ctx context.Context, nc *nats.Conn, subject string, question, answer any) error {
	data, err := json.Marshal(question)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	reply, err := nc.RequestWithContext(ctx, subject, data)
	if err != nil {
		return err
	}
	return decode(reply.Data, answer)
}

func decode(data []byte, answer any) error {
	var failed apiAnswer
	if err := json.Unmarshal(data, &failed); err != nil {
		return fmt.Errorf("read what the server answered: %w", err)
	}
	if failed.Error != nil {
		return failed.Error
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(data, answer)
}

// BackupJetStream takes all streams of the account that nc logged in to. Each is as it was at one
// moment, a moment of its own.
func BackupJetStream(ctx context.Context, nc *nats.Conn, w *Writer, done func(Stream)) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	var all []*jetstream.StreamInfo
	lister := js.ListStreams(ctx)
	for info := range lister.Info() {
		all = append(all, info)
	}
	if err := lister.Err(); err != nil {
		return fmt.Errorf("list the streams: %w", err)
	}
	slices.SortFunc(all, func(a, b *jetstream.StreamInfo) int { return strings.Compare(a.Config.Name, b.Config.Name) })
	for _, info := range all {
		name := info.Config.Name
		if info.Config.Storage == jetstream.MemoryStorage {
			done(Stream{Name: name, Messages: info.State.Msgs, Bytes: info.State.Bytes, LeftOut: true, Note: "it is in memory, of which NATS takes no snapshot"})
			continue
		}
		s, err := backupStream(ctx, nc, w, name)
		if gone, ok := errors.AsType[*jetstream.APIError](err); ok && gone.ErrorCode == jetstream.JSErrCodeStreamNotFound {
			done(Stream{Name: name, LeftOut: true, Note: "it was deleted meanwhile"})
			continue
		}
		if err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
		done(s)
	}
	return nil
}

func backupStream(ctx context.Context, nc *nats.Conn, w *Writer, name string) (Stream, error) {
	inbox := nc.NewRespInbox()
	chunks, err := nc.SubscribeSync(inbox)
	if err != nil {
		return Stream{}, err
	}
	defer func() { _ = chunks.Unsubscribe() }()
	if err := chunks.SetPendingLimits(-1, -1); err != nil {
		return Stream{}, err
	}
	var s snapshotted
	err = ask(ctx, nc, "$JS.API.STREAM.SNAPSHOT."+name, map[string]any{"deliver_subject": inbox, "chunk_size": chunkSize, "jsck": true}, &s)
	if err != nil {
		return Stream{}, fmt.Errorf("ask for a snapshot: %w", err)
	}
	st, err := s.state()
	if err != nil {
		return Stream{}, fmt.Errorf("read its state: %w", err)
	}
	folder := path.Join(streamsFolder, name)
	if err := w.AddJSON(path.Join(folder, "stream.json"), s); err != nil {
		return Stream{}, err
	}
	_, err = w.Add(path.Join(folder, "data"), func(to io.Writer) error { return receive(ctx, chunks, to) })
	return Stream{Name: name, Messages: st.Messages, Bytes: st.Bytes, Consumers: st.Consumers}, err
}

// receive writes the chunks of a snapshot. Each says its number where it wants to be acknowledged; the last one
// before the end may not.
func receive(ctx context.Context, chunks *nats.Subscription, to io.Writer) error {
	for n := 1; ; {
		m, err := next(ctx, chunks)
		if err != nil {
			return fmt.Errorf("wait for chunk %d of the snapshot: %w", n, err)
		}
		if len(m.Data) == 0 {
			if status := m.Header.Get("Status"); status != "" && status != "204" {
				return fmt.Errorf("the server broke the snapshot off: %s %s", status, m.Header.Get("Description"))
			}
			return nil
		}
		if m.Reply != "" {
			if number := m.Reply[strings.LastIndexByte(m.Reply, '.')+1:]; number != strconv.Itoa(n) {
				return fmt.Errorf("chunk %s of the snapshot came when number %d was awaited: the connection lost some; try again", number, n)
			}
			n++
		}
		if _, err := to.Write(m.Data); err != nil {
			return err
		}
		if m.Reply != "" {
			if err := m.Respond(nil); err != nil {
				return err
			}
		}
	}
}

func next(ctx context.Context, s *nats.Subscription) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, silence, fmt.Errorf("the server said nothing for %s", silence))
	defer cancel()
	m, err := s.NextMsgWithContext(ctx)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return m, err
}

// RestoreJetStream gives the streams of a backup back, onto so many servers. Streams of the same names must
// not be there, unless they may be deleted; others are left alone. All of that is looked at before anything is done.
func RestoreJetStream(ctx context.Context, nc *nats.Conn, a *Archive, servers int, deleteData bool, done func(Stream)) error {
	if have := nc.ConnectedServerVersion(); older(have, a.Header.Version) {
		return failure.Usagef("the backup was taken from NATS %s, and NATS %s may not understand it: restore it into that version or a newer one",
			a.Header.Version, have)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	all, err := restorables(a, servers)
	if err != nil {
		return failure.Usagef("nothing was done: the backup cannot be given back: %w", err)
	}
	var lost []string
	for _, r := range all {
		name := r.Name
		stream, err := js.Stream(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look whether stream %s is there: %w", name, err)
		}
		st := stream.CachedInfo().State
		lost = append(lost, fmt.Sprintf("%s (%d messages, the last of %s)", name, st.Msgs, st.LastTime.UTC().Format(time.RFC3339)))
	}
	if len(lost) > 0 && !deleteData {
		return failure.Usagef("nothing was done: these streams are there, and what they hold would be lost: %s; "+
			"'orrery data backup %s FILE' keeps it, --delete-data goes on", strings.Join(lost, ", "), NATS)
	}
	for _, r := range all {
		if err := js.DeleteStream(ctx, r.Name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("delete stream %s: %w", r.Name, err)
		}
		if err := r.restore(ctx, nc, js); err != nil {
			return fmt.Errorf("stream %s: %w", r.Name, err)
		}
		done(r.Stream)
	}
	return nil
}

// older says whether have is of an older minor version than want.
func older(have, want string) bool {
	minor := func(v string) string { return semver.MajorMinor("v" + strings.TrimPrefix(v, "v")) }
	return semver.Compare(minor(have), minor(want)) < 0
}

// restorable is a stream of a backup that has all that a restore takes.
type restorable struct {
	Stream
	snapshotted
	want streamState
	data io.Reader
}

// restorables are the streams of a backup, to be kept by so many servers.
func restorables(a *Archive, servers int) ([]restorable, error) {
	var all []restorable
	for _, entry := range a.Names(streamsFolder) {
		folder, file := path.Split(entry)
		name := path.Base(folder)
		if path.Join(streamsFolder, name, file) != entry || file != "stream.json" && file != "data" {
			return nil, fmt.Errorf("it has an entry %q, of which this orrery knows nothing", entry)
		}
		data, err := a.Open(path.Join(folder, "data"))
		if err != nil {
			return nil, err
		}
		r := restorable{data: data}
		if err := a.JSON(path.Join(folder, "stream.json"), &r.snapshotted); err != nil {
			return nil, err
		}
		if file == "data" { // which stands behind its stream.json
			continue
		}
		if r.want, err = r.state(); err != nil {
			return nil, fmt.Errorf("%s: read its state: %w", entry, err)
		}
		r.Stream = Stream{Name: name, Messages: r.want.Messages, Bytes: r.want.Bytes, Consumers: r.want.Consumers}
		if r.Config, r.Note, err = fewerReplicas(r.Config, servers); err != nil {
			return nil, fmt.Errorf("%s: read its configuration: %w", entry, err)
		}
		var config struct {
			Name string `json:"name"`
		}
		if err := json.Unmarshal(r.Config, &config); err != nil || config.Name != name {
			return nil, errors.Join(fmt.Errorf("%s: it is that of stream %q", entry, config.Name), err)
		}
		all = append(all, r)
	}
	return all, nil
}

func (r restorable) restore(ctx context.Context, nc *nats.Conn, js jetstream.JetStream) error {
	var accepted struct {
		Deliver string `json:"deliver_subject"`
	}
	if err := ask(ctx, nc, "$JS.API.STREAM.RESTORE."+r.Name, r.snapshotted, &accepted); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if err := send(ctx, nc, accepted.Deliver, r.data); err != nil {
		return err
	}
	stream, err := js.Stream(ctx, r.Name)
	if err != nil {
		return fmt.Errorf("look at what was restored: %w", err)
	}
	if have := stream.CachedInfo().State; have.Msgs != r.want.Messages || have.LastSeq != r.want.LastSeq {
		return fmt.Errorf("it has %d messages up to number %d now, and had %d up to %d", have.Msgs, have.LastSeq, r.want.Messages, r.want.LastSeq)
	}
	return awaitConsumers(ctx, stream, r.want.Consumers)
}

// awaitConsumers waits until a stream's consumers answer, which the servers agree on after they have said that
// the stream is restored.
func awaitConsumers(ctx context.Context, stream jetstream.Stream, want int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, silence, fmt.Errorf("not all of its %d consumers are back after %s", want, silence))
	defer cancel()
	for {
		have := 0
		list := stream.ListConsumers(ctx)
		for info := range list.Info() {
			if info.Cluster == nil || info.Cluster.Leader != "" {
				have++
			}
		}
		if list.Err() == nil && have >= want {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// send gives a server the chunks of a stream, each once the one before was taken, and an empty one at the end.
func send(ctx context.Context, nc *nats.Conn, subject string, data io.Reader) error {
	chunk := make([]byte, chunkSize)
	for n := 1; ; n++ {
		size, err := io.ReadFull(data, chunk)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return err
		}
		ended := size == 0
		reply, err := func() (*nats.Msg, error) {
			ctx, cancel := context.WithTimeoutCause(ctx, silence, fmt.Errorf("the server said nothing for %s", silence))
			defer cancel()
			m, err := nc.RequestWithContext(ctx, subject, chunk[:size])
			if err != nil && ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return m, err
		}()
		if err != nil {
			return fmt.Errorf("send chunk %d: %w", n, err)
		}
		if len(reply.Data) > 0 {
			if err := decode(reply.Data, nil); err != nil {
				return fmt.Errorf("the server refused it: %w", err)
			}
		}
		if ended {
			return nil
		}
	}
}

// fewerReplicas has a stream kept as often as there are servers, at the most.
func fewerReplicas(config json.RawMessage, servers int) (json.RawMessage, string, error) {
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(config, &fields); err != nil {
		return nil, "", err
	}
	var replicas int
	if err := json.Unmarshal(fields["num_replicas"], &replicas); err != nil {
		return nil, "", err
	}
	if replicas <= servers {
		return config, "", nil
	}
	fields["num_replicas"] = json.RawMessage(strconv.Itoa(servers))
	changed, err := json.Marshal(fields)
	return changed, fmt.Sprintf("kept %d times and not %d: there is no more than that of servers", servers, replicas), err
}
