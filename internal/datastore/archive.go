package datastore

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"
)

const (
	// APIVersion of the format.
	APIVersion = "orrery.dev/v1alpha1"
	kind       = "DataBackup"
	headerFile = "backup.json"
	sumsFile   = "SHA256SUMS"
	// maxText bounds what is read into memory of a file that anybody may have made.
	maxText = 16 << 20
)

// Header says what a backup is.
type Header struct {
	APIVersion  string    `json:"apiVersion"`
	Kind        string    `json:"kind"`
	Store       string    `json:"store"`       // such as nats
	Version     string    `json:"version"`     // of the store's program, such as 2.15.2
	Environment string    `json:"environment"` // that it was taken from
	Taken       time.Time `json:"taken"`
}

// Writer writes a backup.
type Writer struct {
	tar  *tar.Writer
	dir  string // for what is on its way
	at   time.Time
	sums strings.Builder
}

// NewWriter begins a backup of a store with its header; what has to be put by on its way lies in dir.
func NewWriter(w io.Writer, dir string, h Header) (*Writer, error) {
	h.APIVersion, h.Kind = APIVersion, kind
	b := &Writer{tar: tar.NewWriter(w), dir: dir, at: h.Taken}
	return b, b.AddJSON(headerFile, h)
}

// AddJSON adds a small entry.
func (w *Writer) AddJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	data = append(data, '\n')
	return w.add(name, int64(len(data)), bytes.NewReader(data), true)
}

// Add adds what give writes. It is put by first, because its size stands before it.
func (w *Writer) Add(name string, give func(io.Writer) error) (size int64, err error) {
	f, err := os.CreateTemp(w.dir, ".orrery-data-*") // 0600
	if err != nil {
		return 0, err
	}
	// It has no name any more, so that nothing is left whatever ends us.
	if err := os.Remove(f.Name()); err != nil {
		return 0, errors.Join(err, f.Close())
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := give(f); err != nil {
		return 0, err
	}
	if size, err = f.Seek(0, io.SeekCurrent); err != nil {
		return 0, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	return size, w.add(name, size, f, true)
}

func (w *Writer) add(name string, size int64, r io.Reader, listed bool) error {
	err := w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: w.at, Format: tar.FormatPAX})
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(w.tar, sum), r); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if listed {
		fmt.Fprintf(&w.sums, "%x  %s\n", sum.Sum(nil), name)
	}
	return nil
}

// Close writes the sums of all entries, without which the file is none.
func (w *Writer) Close() error {
	text := w.sums.String()
	return errors.Join(w.add(sumsFile, int64(len(text)), strings.NewReader(text), false), w.tar.Close())
}

// Archive is a backup that is whole.
type Archive struct {
	Header  Header
	file    *os.File
	entries map[string]*io.SectionReader
	names   []string // in the order of the file
}

// Open reads all of a backup of a store and refuses what is not as it was written.
func Open(file, store string) (*Archive, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	a := &Archive{file: f, entries: map[string]*io.SectionReader{}}
	if err := a.read(store); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", file, err), f.Close())
	}
	return a, nil
}

// Close closes the file.
func (a *Archive) Close() error { return a.file.Close() }

const cutShort = "it is cut short: take the backup again, or copy the file again"

func (a *Archive) read(store string) error {
	var sums strings.Builder
	r := tar.NewReader(a.file)
	ended := false
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			if len(a.names) == 0 {
				return fmt.Errorf("it is no backup that 'orrery data backup' wrote: %w", err)
			}
			return fmt.Errorf("%s (%w)", cutShort, err)
		}
		if ended || h.Typeflag != tar.TypeReg || h.Name != path.Clean(h.Name) || a.entries[h.Name] != nil {
			return fmt.Errorf("it has an entry %q that nobody wrote there", h.Name)
		}
		// The reader of a tar reads no further than the header that it gave.
		at, err := a.file.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		content := io.NewSectionReader(a.file, at, h.Size)
		if h.Name == sumsFile {
			ended = true
			text, err := readText(content)
			if err != nil {
				return err
			}
			if string(text) != sums.String() {
				return fmt.Errorf("its content is not what %s at its end says: it was changed or damaged", sumsFile)
			}
			continue
		}
		sum := sha256.New()
		// What [Archive.Open] gives, which is not what a tar has it be where it is sparse.
		n, err := io.Copy(sum, content)
		if err != nil || n != h.Size {
			return errors.Join(errors.New(cutShort), err)
		}
		if fmt.Fprintf(&sums, "%x  %s\n", sum.Sum(nil), h.Name); sums.Len() > maxText {
			return fmt.Errorf("it has more than %d entries, which nobody wrote", len(a.names))
		}
		a.entries[h.Name] = content
		a.names = append(a.names, h.Name)
		if len(a.names) == 1 {
			if err := a.readHeader(h.Name, store); err != nil {
				return err
			}
		}
	}
	if !ended {
		return errors.New(cutShort)
	}
	return nil
}

// readHeader refuses what is another thing than a backup of this store, in a format that is known.
func (a *Archive) readHeader(first, store string) error {
	if first != headerFile {
		return fmt.Errorf("it is no backup that 'orrery data backup' wrote: it begins with %q", first)
	}
	if err := a.JSON(headerFile, &a.Header); err != nil {
		return err
	}
	switch h := a.Header; {
	case h.APIVersion != APIVersion || h.Kind != kind:
		return fmt.Errorf("it is %s %s, and this orrery reads %s %s: restore it with the orrery that wrote it", h.APIVersion, h.Kind, APIVersion, kind)
	case h.Store != store:
		return fmt.Errorf("it is a backup of %s, not of %s: 'orrery data restore %s FILE'", h.Store, store, h.Store)
	}
	return nil
}

// Names are those of all entries below a folder, in the order of the file.
func (a *Archive) Names(folder string) []string {
	var names []string
	for _, name := range a.names {
		if strings.HasPrefix(name, folder+"/") {
			names = append(names, name)
		}
	}
	return names
}

// JSON decodes a small entry.
func (a *Archive) JSON(name string, v any) error {
	content, err := a.Open(name)
	if err != nil {
		return err
	}
	data, err := readText(content)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// Open is the content of an entry, from its beginning.
func (a *Archive) Open(name string) (io.Reader, error) {
	content, ok := a.entries[name]
	if !ok {
		return nil, fmt.Errorf("it has no entry %q", name)
	}
	return io.NewSectionReader(content, 0, content.Size()), nil
}

func readText(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxText+1))
	if err == nil && len(data) > maxText {
		err = fmt.Errorf("it has more than %d MiB", maxText>>20)
	}
	return data, err
}
