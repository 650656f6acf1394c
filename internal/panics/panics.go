// Package panics turns a panic of a goroutine into an error. Go ends the process at a panic that is
// not recovered, and the kernel deletes the firewall rules with the process. A goroutine that only
// observes, or that reads data from outside, runs its work through Contain, and so does the
// enforcement loop. Its owner reports the *Error and repeats the work. The enforcement loop first
// applies the rules that it knows again.
package panics

import (
	"fmt"
	"path"
	"runtime"
	"strings"
)

// maxFrames is the most functions in Error.Stack.
const maxFrames = 16

// Error is a recovered panic.
type Error struct {
	Value any
	Stack string // functions, innermost first, each like "observe.(*Observer).Run observe.go:77"
}

func (e *Error) Error() string {
	return fmt.Sprintf("a fault of SikkerGuard itself (a panic: %v)", e.Value)
}

// Contain calls f and returns its error, or an *Error if it panics.
func Contain(f func() error) (err error) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case *Error: // a panic of another goroutine, passed on
			err = v
		default:
			err = &Error{Value: v, Stack: stack()}
		}
	}()
	return f()
}

// stack returns the functions that a panic passed. Only a deferred function may call it.
func stack() string {
	pcs := make([]uintptr, 4*maxFrames)
	// Skip Callers, stack and the deferred function.
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	var named []string
	for more := true; more && len(named) < maxFrames; {
		var f runtime.Frame
		if f, more = frames.Next(); f.Function != "" && !strings.HasPrefix(f.Function, "runtime.") {
			named = append(named, fmt.Sprintf("%s %s:%d", path.Base(f.Function), path.Base(f.File), f.Line))
		}
	}
	return strings.Join(named, " < ")
}
