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

// ownWaitMost is how long a start or a pull waits for the operator's file, counted from the first
// request for a reading. If reading takes longer, the file is applied later, by itself.
const ownWaitMost = time.Second

// ownList is the operator's list.
type ownList struct {
	list     blocklist.Blocklist // the newest valid reading
	since    clock.Moment        // when list was first read; zero if it never was
	taken    *ownReading         // the newest reading that was applied
	bad      string              // the bad lines that were last logged
	badLines int                 // of list
	err      string              // of the newest reading, as it was logged; empty for none

	active   blocklist.Blocklist // the entries of list that are active
	rejected *ownRejection       // set while list is rejected; nil for not

	reader *ownReader           // of the file; nil for none
	saver  *saver               // of list
	saved  *blocklist.Blocklist // on the disk, or being written; nil if that is unknown
}

// updateOwn applies the newest reading of the operator's file to the own list. Bad lines are logged
// and left out. If the file cannot be read or is refused, the previous list stays.
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
		e.o.Log.Warn(fmt.Sprintf("Custom blacklist shrank to %s, it had %d", blocklist.Entries(n), before),
			zap.String("file", e.o.Own.Path))
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

// refuseOwn logs why the operator's file is not used, once while that lasts.
func (e *Enforcer) refuseOwn(err error) {
	o := &e.own
	if text := err.Error(); text != o.err {
		o.err = text
		is := "cannot be read"
		if _, refused := errors.AsType[*vet.RefusalError](err); refused {
			is = "is refused"
		}
		stays := fmt.Sprintf("; its previous entries stay (%s)", blocklist.Entries(o.list.Len()))
		if o.since == (clock.Moment{}) {
			stays = "; it is not enforced"
		}
		e.o.Log.Warn("Custom blacklist "+is+stays,
			zap.String("file", e.o.Own.Path), zap.Error(err))
	}
	o.badLines = 0
	e.setCondition(status.CondCustom, err)
	e.publishOwn()
}

// logBadLines logs the lines of the operator's file that are left out, unless they were logged last
// time.
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
		e.o.Log.Warn("Custom blacklist: special-purpose addresses, such as private ones, are never blocked",
			zap.Int("entries", v.Special))
	}
}

// publishOwn publishes the state of the operator's list, if there is one.
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

// saveOwn has the operator's list written to the disk, unless it is there already. The next start
// has it even if the file is gone or damaged.
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

// awaitOwn waits for a reading of the operator's file, but not longer than until mostC has a value.
func awaitOwn(ctx context.Context, readC <-chan struct{}, mostC <-chan time.Time) {
	select {
	case <-ctx.Done():
	case <-readC:
	case <-mostC:
	}
}
