package failure

import (
	"errors"
	"fmt"
)

// Usage is a mistake of the person: flags, arguments, files that they wrote.
type Usage struct{ Err error }

func (e Usage) Error() string { return e.Err.Error() }
func (e Usage) Unwrap() error { return e.Err }

// Usagef formats a mistake of the person. %w wraps.
func Usagef(format string, a ...any) error { return Usage{fmt.Errorf(format, a...)} }

// Refused is a machine that cannot run the platform as it is, or a platform that is not the
// one that the lock or a policy allows.
type Refused struct{ Err error }

func (e Refused) Error() string { return e.Err.Error() }
func (e Refused) Unwrap() error { return e.Err }

// Refusedf formats a refusal. %w wraps.
func Refusedf(format string, a ...any) error { return Refused{fmt.Errorf(format, a...)} }

// IsUsage reports whether err is, or wraps, a mistake of the person.
func IsUsage(err error) bool { _, ok := errors.AsType[Usage](err); return ok }

// IsRefused reports whether err is, or wraps, a refusal.
func IsRefused(err error) bool { _, ok := errors.AsType[Refused](err); return ok }
