package enforce

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/vet"
)

// ownWaitMost is how long a start or a pull waits for the operator's file. It is read without
// them if it takes longer.
const ownWaitMost = time.Second

// ownList is the operator's list.
type ownList struct {
	list     blocklist.Blocklist // as it was last read well
	since    clock.Moment        // when list was read first; zero if it never was
	taken    *ownReading         // the newest reading that was taken
	bad      string              // the bad lines that were logged last
	badLines int                 // of list
	err      string              // of the newest reading, as it was logged; empty for none

	active   blocklist.Blocklist // the entries of it that are in force
	rejected *ownRejection       // list, which is not in force; nil if it may be

	reader *ownReader           // of the file; nil for none
	saver  *saver               // of list
	saved  *blocklist.Blocklist // the list that is on the disk or that saver writes; nil if that is unknown
}

// updateOwn takes the newest reading of the operator's list. A bad line is logged, and the rest of
// the list counts. If the file cannot be read or is refused, the list that it held before stays.
func (e *Enforcer) updateOwn() {
	o := &e.own
	r := e.own.reader.newest()
	if r == nil || r == o.taken {
		return
	}
	o.taken = r
	if r.err != nil {
		e.refuseOwn(r.err)
		return
	}
	v := r.verdict
	e.logBadLines(v)
	before := o.list.Len()
	switch n := v.List.Len(); {
	case n < before && 2*n < before:
		e.o.Log.Warn(fmt.Sprintf("Custom blacklist shrank to %s, it had %d", blocklist.Entries(n), before), zap.String("file", e.o.Own.Path))
	case o.err != "":
		e.o.Log.Info(fmt.Sprintf("Custom blacklist can be read again (%s)", blocklist.Entries(n)))
	}
	if o.since == (clock.Moment{}) || !v.List.Equal(o.list) {
		o.clearRejection()
		o.list, o.since = v.List, e.o.Clock.Now()
	}
	o.err, o.badLines = "", v.Bad
	e.setCondition(status.CondCustom, nil)
	e.publishOwn()
	e.saveOwn()
}

// refuseOwn logs why the operator's file is not taken, once while that lasts.
func (e *Enforcer) refuseOwn(err error) {
	o := &e.own
	if text := err.Error(); text != o.err {
		o.err = text
		is := "cannot be read"
		if _, refused := errors.AsType[*vet.RefusalError](err); refused {
			is = "is refused"
		}
		stays := fmt.Sprintf(", what it held before stays (%s)", blocklist.Entries(o.list.Len()))
		if o.since == (clock.Moment{}) {
			stays = "; nothing of it is enforced"
		}
		e.o.Log.Warn("Custom blacklist "+is+stays,
			zap.String("file", e.o.Own.Path), zap.Error(err))
	}
	o.badLines = 0
	e.setCondition(status.CondCustom, err)
	e.publishOwn()
}

// logBadLines logs the lines of the operator's list that are left out, if they are not those that
// were logged last.
func (e *Enforcer) logBadLines(v vet.Verdict) {
	o := &e.own
	bad := fmt.Sprint(v.Bad, v.Special, v.Malformed[:min(len(v.Malformed), examplesMost)])
	if bad == o.bad {
		return
	}
	o.bad = bad
	for i, bad := range v.Malformed {
		if i == examplesMost {
			e.o.Log.Warn("Custom blacklist: more lines are left out", zap.Int("lines", v.Bad-examplesMost))
			break
		}
		e.o.Log.Warn("Custom blacklist: a line is left out", zap.String("file", e.o.Own.Path), zap.Error(bad))
	}
	if v.Special > 0 {
		e.o.Log.Warn("Custom blacklist: special-purpose addresses, such as private ones, are never blocked", zap.Int("entries", v.Special))
	}
}

// publishOwn publishes the operator's list in the status.
func (e *Enforcer) publishOwn() {
	if e.o.Own == nil {
		return
	}
	o := &e.own
	c := &status.CustomList{Entries: o.list.Len(), BadLines: o.badLines, Error: o.err}
	if c.Error == "" && o.rejected != nil {
		c.Error = o.rejected.err.Error()
	}
	c.Error = e.o.Board.Plain(c.Error)
	if o.since != (clock.Moment{}) {
		at := e.o.Clock.WallOf(o.since).UTC().Truncate(time.Second)
		c.Since = &at
	}
	e.setStatus(func(s *status.Status) { s.CustomList = c })
}

// saveOwn has the operator's list written to the disk, unless it is there, so that the next start has it even if the file is
// gone or damaged.
func (e *Enforcer) saveOwn() {
	o := &e.own
	if e.o.DryRun || o.saved != nil && o.saved.Equal(o.list) {
		return
	}
	list, at, saved := o.list, e.o.Clock.WallOf(o.since), e.o.Own.Saved
	o.saved = &list
	o.saver.save(func() error { return saved.Save(list, at) })
}

// reportOwn logs that the operator's list cannot be saved, once while that lasts.
func (e *Enforcer) reportOwn(err error, changed bool) {
	if err != nil && changed {
		e.logDiskFailure("The custom blacklist cannot be saved yet; a start without its file would lack it", err)
	}
}

// awaitOwn waits briefly for a reading of the operator's list.
func (e *Enforcer) awaitOwn(ctx context.Context, readC <-chan struct{}) {
	timer := time.NewTimer(ownWaitMost)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-readC:
	case <-timer.C:
	}
}
