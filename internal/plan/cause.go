package plan

import "fmt"

// CauseKind says what kind of thing left something out.
type CauseKind string

const (
	// CauseUnreachable: an image that only a registry has, or a file of a public repository, and
	// nobody who may be asked has it.
	CauseUnreachable CauseKind = "unreachable"
	// CauseNoAnswer: as unreachable, and nothing answered in the time there was. With more
	// time the answer may be another.
	CauseNoAnswer CauseKind = "no-answer"
	// CauseUnpinned: nobody has asked yet which image a tag means.
	CauseUnpinned CauseKind = "unpinned"
	// CauseFailed: what it needs failed.
	CauseFailed CauseKind = "failed"
	// CauseCheck: a check says that it cannot be made here.
	CauseCheck CauseKind = "check"
	// CauseOther: whatever an action says.
	CauseOther CauseKind = "other"
)

// Cause is why something is left out. The zero Cause is that of what is not.
type Cause struct {
	Kind CauseKind `json:"kind"`
	// Root is what is the matter, in words for a person.
	Root string `json:"root"`
	// Image is the name of the image that cannot be had, when it is about one.
	Image string `json:"image,omitempty"`
	// Via is the step or component that is left out, or failed, for which this is left out
	// too; empty for the one that Root is about.
	Via string `json:"via,omitempty"`
}

// IsZero reports whether nothing is left out.
func (c Cause) IsZero() bool { return c == Cause{} }

// For is the cause of what needs via, which is left out for c. The root stays what it is.
func (c Cause) For(via string) Cause {
	c.Via = via
	return c
}

// String is the whole reason in a line.
func (c Cause) String() string {
	switch {
	case c.Via == "":
		return c.Root
	case c.Kind == CauseFailed:
		return fmt.Sprintf("needs %s, which failed", c.Via)
	}
	return fmt.Sprintf("needs %s, which is skipped: %s", c.Via, c.Root)
}
