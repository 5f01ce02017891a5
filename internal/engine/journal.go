package engine

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/orrery-dev/orrery/internal/driver"
)

// journalVersion is written at the head of a journal. A newer one is refused.
const journalVersion = 1

// compactAt is the number of lines of dead effects that a journal may hold before it is
// rewritten with the live ones alone.
const compactAt = 1024

// maxLine bounds one entry.
const maxLine = 1 << 20

// ErrNewer is wrapped when a state file was written by a newer orrery.
var ErrNewer = errors.New("written by a newer orrery")

// CorruptError says that a journal held a line that no orrery wrote whole. The readable
// entries were read and stand in a new file; the damaged one was kept beside it.
type CorruptError struct {
	Path string
	Line int // 1-based
	Err  error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s:%d: not a journal entry: %v; the other entries were kept,"+
		" and the damaged file is now %s.corrupt; run the command again to go on,"+
		" or `orrery down` to remove everything: its audit looks at reality and finds what the lost line named",
		e.Path, e.Line, e.Err, e.Path)
}

func (e *CorruptError) Unwrap() error { return e.Err }

// Journal is the list of what exists outside our process, one JSON line for each effect
// begun and each one undone. It implements [driver.Journal] and is safe for concurrent use.
type Journal struct {
	mu    sync.Mutex
	path  string
	file  *os.File
	live  []driver.Effect // in order of Begin
	dead  int             // lines that a rewrite would drop
	limit int             // of dead
	err   error           // of a write that failed: nothing may be appended after it
}

var _ driver.Journal = (*Journal)(nil)

type header struct {
	Journal string `json:"journal"`
	Version int    `json:"version"`
}

type entry struct {
	Begin  *driver.Effect `json:"begin,omitempty"`
	Undone *key           `json:"undone,omitempty"`
}

// key is what tells two effects apart; Info is only a hint for the one who undoes it.
type key struct {
	Kind string `json:"kind"`
	ID   string `json:"id"`
}

func keyOf(e driver.Effect) key { return key{Kind: e.Kind, ID: e.ID} }

const journalName = "orrery.dev/effects"

// OpenJournal opens the journal at path; an absent one is empty and made, with its folder,
// by the first Begin, so that looking at an absent environment leaves no trace. A last
// line that was cut off by a crash is dropped: its effect was not begun. When an entry in the middle is damaged, a
// usable journal of the readable entries is returned together with a [*CorruptError].
// A newer version wraps [ErrNewer] and returns no journal.
func OpenJournal(path string) (*Journal, error) {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	j := &Journal{path: path, limit: compactAt}
	clean, corrupt := j.read(data)
	if errors.Is(corrupt, ErrNewer) {
		return nil, corrupt
	}
	// A damaged journal stays on disk as it is, under another name, for whoever wants to
	// know what happened.
	if corrupt != nil {
		if err := os.WriteFile(path+".corrupt", data, 0o600); err != nil {
			return nil, errors.Join(corrupt, fmt.Errorf("keeping the damaged journal: %w", err))
		}
	}
	if err != nil {
		return j, nil // absent
	}
	if len(data) == 0 || !clean || corrupt != nil || j.dead >= j.limit {
		if err := j.rewrite(); err != nil {
			return nil, errors.Join(corrupt, err)
		}
		return j, corrupt
	}
	if j.file, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	return j, nil
}

// read fills live from data. clean is false when the last line is torn; err names the
// first damaged line.
func (j *Journal) read(data []byte) (clean bool, err error) {
	clean = true
	for number := 1; len(data) > 0; number++ {
		line, rest, whole := bytes.Cut(data, []byte("\n"))
		data = rest
		if !whole { // torn: a write ends with its newline
			return false, err
		}
		if lineErr := j.apply(number, line); lineErr != nil {
			if errors.Is(lineErr, ErrNewer) {
				return clean, lineErr
			}
			if err == nil {
				err = &CorruptError{Path: j.path, Line: number, Err: lineErr}
			}
		}
	}
	return clean, err
}

func (j *Journal) apply(number int, line []byte) error {
	if number == 1 {
		var h header
		// Not strictly: a newer header may say more, and is to be refused for being newer.
		if err := json.Unmarshal(line, &h); err != nil {
			return err
		}
		// A journal that lost its header still holds effects; an entry here is one.
		if h == (header{}) && j.entry(line) == nil {
			return errors.New("the version header is missing")
		}
		if h.Journal != journalName || h.Version < 1 {
			return fmt.Errorf("want the header of a journal of version 1 to %d", journalVersion)
		}
		if h.Version > journalVersion {
			return fmt.Errorf("%s has version %d, this orrery reads up to %d: %w; use that one, also for `orrery down`", j.path, h.Version, journalVersion, ErrNewer)
		}
		return nil
	}
	return j.entry(line)
}

func (j *Journal) entry(line []byte) error {
	if len(line) > maxLine {
		return fmt.Errorf("longer than %d bytes", maxLine)
	}
	var e entry
	if err := strict(line, &e); err != nil {
		return err
	}
	switch {
	case e.Begin != nil && e.Undone == nil && e.Begin.Kind != "" && e.Begin.ID != "":
		j.begin(*e.Begin)
	case e.Undone != nil && e.Begin == nil:
		j.undone(*e.Undone)
	default:
		return errors.New("want either begin or undone, with kind and id")
	}
	return nil
}

func strict(line []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the entry")
	}
	return nil
}

// begin adds e, or replaces the info of one that is live already.
func (j *Journal) begin(e driver.Effect) {
	if i := j.find(keyOf(e)); i >= 0 {
		j.live[i].Info = e.Info
		j.dead++
		return
	}
	j.live = append(j.live, e)
}

func (j *Journal) undone(k key) {
	j.dead++
	if i := j.find(k); i >= 0 {
		j.live = slices.Delete(j.live, i, i+1)
		j.dead++
	}
}

func (j *Journal) find(k key) int {
	return slices.IndexFunc(j.live, func(e driver.Effect) bool { return keyOf(e) == k })
}

// Begin records e and returns after it is on disk: only then may the effect be made.
// Beginning a live effect again is free unless its info changed.
func (j *Journal) Begin(e driver.Effect) error {
	if e.Kind == "" || e.ID == "" {
		return fmt.Errorf("journal: an effect needs a kind and an id, got %+v", e)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if i := j.find(keyOf(e)); i >= 0 && sameInfo(j.live[i].Info, e.Info) {
		return j.err
	}
	if err := j.append(entry{Begin: &e}); err != nil {
		return err
	}
	j.begin(e)
	return nil
}

// Undone records that e is gone. Of an effect that is not live it is free.
func (j *Journal) Undone(e driver.Effect) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	k := keyOf(e)
	if j.find(k) < 0 {
		return j.err
	}
	if err := j.append(entry{Undone: &k}); err != nil {
		return err
	}
	j.undone(k)
	if j.dead >= j.limit {
		// The entry is on disk; a shorter file would only be nicer. The folder may be gone
		// already, being one of the effects that were undone.
		if j.rewrite() != nil {
			j.dead = 0
		}
	}
	return nil
}

// Live is a copy of the effects that were begun and not undone, oldest first.
func (j *Journal) Live() []driver.Effect {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.live)
}

// Close closes the file. Every entry is on disk already.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err == nil {
		j.err = errors.New("journal: closed")
	}
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	return err
}

func (j *Journal) append(e entry) error {
	if j.err != nil {
		return j.err
	}
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if len(line) > maxLine {
		return fmt.Errorf("journal: entry of %d bytes, want at most %d", len(line), maxLine)
	}
	if j.file == nil {
		if err := makeDir(filepath.Dir(j.path)); err != nil {
			return fmt.Errorf("making the journal's folder: %w", err)
		}
		if err := j.rewrite(); err != nil {
			return err
		}
	}
	_, err = j.file.Write(append(line, '\n'))
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		// Half a line may be on disk. Another one behind it would make the journal look
		// corrupt, so that no effect may be made from here on.
		j.err = fmt.Errorf("writing the journal %s: %w; free space on its disk and run the command again", j.path, err)
	}
	return j.err
}

// rewrite replaces the file by a header and the live effects.
func (j *Journal) rewrite() error {
	var b bytes.Buffer
	w := bufio.NewWriter(&b)
	enc := json.NewEncoder(w)
	err := enc.Encode(header{Journal: journalName, Version: journalVersion})
	for i := range j.live {
		err = errors.Join(err, enc.Encode(entry{Begin: &j.live[i]}))
	}
	if err = errors.Join(err, w.Flush()); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := writeFile(j.path, b.Bytes()); err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	f, err := os.OpenFile(j.path, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("opening the journal: %w", err)
	}
	if j.file != nil {
		j.file.Close()
	}
	j.file, j.dead = f, 0
	return nil
}

func sameInfo(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}
