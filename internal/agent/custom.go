package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/vet"
)

// customBriefly is how long a start or a pull waits for the operator's file. It is read without
// them if it takes longer.
const customBriefly = time.Second

// ownList is the operator's list.
type ownList struct {
	list     blocklist.Blocklist // as it was last read well
	since    clock.Moment        // when list was read first; zero if it never was
	taken    *customReading      // the newest reading that was taken
	bad      string              // the bad lines that were logged last
	badLines int                 // of list
	err      string              // of the newest reading, as it was logged; empty for none

	inForce  blocklist.Blocklist // the entries of it that are in force
	rejected *ownRejection       // list, which is not in force; nil if it may be

	keeper *keeper              // writes list to the disk
	kept   *blocklist.Blocklist // the list that is on the disk or that keeper writes; nil if that is not known
}

// restoreOwn takes the operator's list as the last run had it. The file itself is read meanwhile.
func (a *Agent) restoreOwn() {
	c, err := readDisk(keepMost, "reading of the kept custom blacklist", a.feed.KeptCustom)
	switch {
	case errors.Is(err, feed.ErrNoCopy):
		return
	case err != nil:
		a.warnOfDisk("The kept custom blacklist cannot be read", err)
		return
	}
	v, err := vet.Custom(bytes.NewReader(c.Body))
	if err != nil && c.Entries > 0 {
		a.log.Warn("The kept custom blacklist is left out", zap.Error(err))
		return
	}
	o := &a.enforcer.own
	o.list, o.since, o.kept = v.List, clock.Moment{Wall: c.Pulled}, &v.List
	a.showOwn()
}

// takeOwn takes the newest reading of the operator's list. A bad line is logged, and the rest of
// the list counts. If the file cannot be read or is refused, the list that it held before stays.
func (a *Agent) takeOwn() {
	o := &a.enforcer.own
	r := a.custom.newest()
	if r == nil || r == o.taken {
		return
	}
	o.taken = r
	if r.err != nil {
		a.refuseOwn(r.err)
		return
	}
	v := r.verdict
	a.tellBadLines(v)
	before := o.list.Len()
	switch n := v.List.Len(); {
	case n < before && 2*n < before:
		a.log.Warn(fmt.Sprintf("Custom blacklist shrank to %s, it had %d", blocklist.Entries(n), before), zap.String("file", a.cfg.CustomBlacklist))
	case o.err != "":
		a.log.Info(fmt.Sprintf("Custom blacklist can be read again (%s)", blocklist.Entries(n)))
	}
	if o.since == (clock.Moment{}) || !v.List.Equal(o.list) {
		o.forgive()
		o.list, o.since = v.List, a.clock.Now()
	}
	o.err, o.badLines = "", v.Bad
	a.setCondition(status.CondCustom, nil)
	a.showOwn()
	a.keepOwn()
}

// refuseOwn logs why the operator's file is not taken, once while that lasts.
func (a *Agent) refuseOwn(err error) {
	o := &a.enforcer.own
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
		a.log.Warn("Custom blacklist "+is+stays,
			zap.String("file", a.cfg.CustomBlacklist), zap.Error(err))
	}
	o.badLines = 0
	a.setCondition(status.CondCustom, err)
	a.showOwn()
}

// tellBadLines logs the lines of the operator's list that are left out, if they are not those that
// were logged last.
func (a *Agent) tellBadLines(v vet.Verdict) {
	o := &a.enforcer.own
	bad := fmt.Sprint(v.Bad, v.Special, v.Malformed[:min(len(v.Malformed), shown)])
	if bad == o.bad {
		return
	}
	o.bad = bad
	for i, bad := range v.Malformed {
		if i == shown {
			a.log.Warn("Custom blacklist: more lines are left out", zap.Int("lines", v.Bad-shown))
			break
		}
		a.log.Warn("Custom blacklist: a line is left out", zap.String("file", a.cfg.CustomBlacklist), zap.Error(bad))
	}
	if v.Special > 0 {
		a.log.Warn("Custom blacklist: special-purpose addresses, such as private ones, are never blocked", zap.Int("entries", v.Special))
	}
}

// showOwn publishes the operator's list in the status.
func (a *Agent) showOwn() {
	o := &a.enforcer.own
	c := &status.CustomList{Entries: o.list.Len(), BadLines: o.badLines, Error: o.err}
	if c.Error == "" && o.rejected != nil {
		c.Error = o.rejected.err.Error()
	}
	c.Error = a.board.Plain(c.Error)
	if o.since != (clock.Moment{}) {
		at := a.clock.WallOf(o.since).UTC().Truncate(time.Second)
		c.Since = &at
	}
	a.setStatus(func(s *status.Status) { s.CustomList = c })
}

// keepOwn keeps the operator's list on the disk, if the disk does not have it, so that the next
// start has it even if the file is gone or damaged.
func (a *Agent) keepOwn() {
	o := &a.enforcer.own
	if a.cfg.DryRun || o.kept != nil && o.kept.Equal(o.list) {
		return
	}
	list, at := o.list, a.clock.WallOf(o.since)
	o.kept = &list
	o.keeper.keep(func() error { return a.feed.KeepCustom(list, at) })
}

// takeOwnKept takes the result of a write of the operator's list. A failure is logged once while it
// lasts.
func (a *Agent) takeOwnKept(err error) {
	k := a.enforcer.own.keeper
	failed := k.failed
	if k.done(err); err != nil && !failed {
		a.tellOwnUnkept(err)
	}
}

// keepOwnHangs takes note of a disk that does not take the operator's list.
func (a *Agent) keepOwnHangs() {
	k := a.enforcer.own.keeper
	if !k.failed {
		a.tellOwnUnkept(errKeeping)
	}
	k.hung()
}

func (a *Agent) tellOwnUnkept(err error) {
	a.warnOfDisk("The custom blacklist cannot be kept yet: a start without its file would not have it", err)
}

// awaitOwn waits briefly for a reading of the operator's list.
func (a *Agent) awaitOwn(ctx context.Context, readC <-chan struct{}) {
	timer := time.NewTimer(customBriefly)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-readC:
	case <-timer.C:
	}
}
