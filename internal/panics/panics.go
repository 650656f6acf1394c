// Package panics turns a panic of a goroutine into an error. Go ends the process at a panic that
// nothing recovers, and the firewall rules go with the process. A goroutine that only watches, or
// that reads data from outside, runs its work through Contain. Its owner tells the *Error and does
// the work again. The work of the enforcing task itself is not contained: a new process begins with
// a clean state.
package panics

import (
	"fmt"
	"path"
	"runtime"
	"strings"
)

// maxFrames is how many functions Error.Stack names at most.
const maxFrames = 16

// Error is a panic.
type Error struct {
	Value any
	Stack string // the functions, the innermost first, as in "agent.(*Agent).observe observe.go:52"
}

func (e *Error) Error() string {
	return fmt.Sprintf("a fault of SikkerGuard itself (a panic: %v)", e.Value)
}

// Contain calls f and returns its error, or an *Error if it panics.
func Contain(f func() error) (err error) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case *Error: // of another goroutine, passed on
			err = v
		default:
			err = &Error{Value: v, Stack: stack()}
		}
	}()
	return f()
}

// stack returns the functions that a panic passed. It is called by the deferred function.
func stack() string {
	pcs := make([]uintptr, 4*maxFrames)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)]) // without Callers, stack and the deferred function
	var named []string
	for more := true; more && len(named) < maxFrames; {
		var f runtime.Frame
		if f, more = frames.Next(); f.Function != "" && !strings.HasPrefix(f.Function, "runtime.") {
			named = append(named, fmt.Sprintf("%s %s:%d", path.Base(f.Function), path.Base(f.File), f.Line))
		}
	}
	return strings.Join(named, " < ")
}
