package agent

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/panics"
)

// faults are the tasks that failed and do not run for long enough yet. They share one condition.
type faults struct {
	mu   sync.Mutex
	errs map[string]error // by the name of the task
}

// set notes why a task failed, or with nil that it runs. tell gets the errors of all tasks that
// fail, nil if none does, in the order of the calls.
func (f *faults) set(name string, err error, tell func(error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, failed := f.errs[name]
	switch {
	case err != nil:
		if f.errs == nil {
			f.errs = map[string]error{}
		}
		f.errs[name] = fmt.Errorf("%s: %w", name, err)
	case !failed:
		return
	default:
		delete(f.errs, name)
	}
	var all []error
	for _, name := range slices.Sorted(maps.Keys(f.errs)) {
		all = append(all, f.errs[name])
	}
	tell(errors.Join(all...))
}

// note has the condition of h hold because of err, or end if err is nil.
func (a *Agent) note(h *helper, err error) {
	if h.name == "" {
		a.board.SetCondition(h.code, err)
		return
	}
	a.faults.set(h.name, err, func(err error) { a.board.SetCondition(h.code, err) })
}

// tellPanic reports whether err is a panic of h, and logs where it was. A logger for development panics then: no test
// passes over one.
func (a *Agent) tellPanic(h *helper, err error) bool {
	p, ok := errors.AsType[*panics.Error](err)
	if ok {
		a.log.DPanic("A part of SikkerGuard panicked: please report this line",
			zap.String("part", cmp.Or(h.name, string(h.code))), zap.Error(err), zap.String("stack", p.Stack))
	}
	return ok
}
