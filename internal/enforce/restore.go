package enforce

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/vet"
)

// firstSurveyMost is how long a start waits for the first survey before it activates the saved
// lists: a host without network must not wait for its protection.
const firstSurveyMost = time.Second

// errNotPulled is the failure of a feed until its first pull has ended.
var errNotPulled = errors.New("the first pull since the start has not ended yet")

// savedReads has the readings of the saved files. They run at the same time, so that a disk that
// hangs delays a start only once.
type savedReads struct {
	names   func() ([]byte, error)
	own     func() (feed.Copy, error) // nil without an operator's file
	lists   []func() (feed.Copy, error)
	refused []func() (feed.Refused, error)
}

// readSaved begins the readings of all saved files.
func (e *Enforcer) readSaved() savedReads {
	s := savedReads{names: readDisk("reading of the addresses of names", e.o.StateDir.Names)}
	if own := e.o.Own; own != nil {
		s.own = readDisk("reading of the saved custom blacklist", own.Saved.Load)
	}
	for _, r := range e.remotes {
		s.lists = append(s.lists, readDisk("reading of the saved list", r.saved.Load))
		s.refused = append(s.refused, readDisk("reading of the refused list", r.saved.Refused))
	}
	return s
}

// restore activates the saved lists and the operator's file before the network is tried: a reboot
// without the API loses nothing.
func (e *Enforcer) restore(ctx context.Context, saved savedReads) {
	readC := e.own.reader.ask()
	e.restoreNames(saved.names)
	if e.o.Own != nil {
		e.restoreOwn(saved.own)
	}
	restored := false
	for i, r := range e.remotes {
		if e.restoreList(r, saved.lists[i]) {
			restored = true
		} else {
			r.failure = errNotPulled
		}
	}
	if !restored && e.o.Own == nil {
		return
	}
	if !e.surveys.await(ctx, e.surveys.ask(), firstSurveyMost) {
		return
	}
	e.awaitOwn(ctx, readC)
	e.updateOwn()
	switch {
	case restored && !e.o.DryRun:
		e.o.Log.Info("Enforcing the saved list until the API answers", zap.String("pulled", e.freshTimes()))
	case !restored && e.own.list.Len() == 0:
		return
	}
	if err := e.applyAll(ctx); err != nil && ctx.Err() == nil {
		e.o.Log.Error("The saved list is not enforced", zap.Error(err))
		e.publish()
	}
}

// restoreList makes the saved list of r a fresh one, and reports whether there is one.
func (e *Enforcer) restoreList(r *remote, read func() (feed.Copy, error)) bool {
	c, err := read()
	id := r.feed.Identity()
	var damaged *feed.DamagedError
	switch {
	case errors.Is(err, feed.ErrNoCopy):
		return false
	case errors.As(err, &damaged):
		e.o.Log.Warn("The saved list is damaged and was set aside", zap.Error(err), zap.String("aside", damaged.Aside))
		return false
	case err != nil:
		e.logDiskFailure("The saved list cannot be read", err)
		return false
	case c.Request != id.Request && c.Source != id.Source:
		e.o.Log.Info("The saved list is from another API or score and is not used")
		return false
	}
	// The guards accepted this list once. Only a body that is not a list is refused now.
	v, err := vetted(bytes.NewReader(c.Body), vet.Options{Overrule: true})
	if err != nil {
		e.o.Log.Warn("The saved list is not used", zap.Error(err))
		return false
	}
	if c.Request == id.Request {
		r.baseline = v.List.Len()
	} else { // it protected the same host; the lists of the new key may have other sizes
		e.o.Log.Info("The saved list was pulled with another key; " +
			"the first list of this key replaces it, whatever its size")
	}
	r.fresh = &accepted{entries: v.List, at: clock.Moment{Wall: c.Fetched}, saved: true}
	return true
}

// restoreOwn loads the operator's list of the last run. The file itself is read meanwhile.
func (e *Enforcer) restoreOwn(read func() (feed.Copy, error)) {
	c, err := read()
	switch {
	case errors.Is(err, feed.ErrNoCopy), err == nil && c.Request != e.o.Own.File.Identity().Request:
		return
	case err != nil:
		e.logDiskFailure("The saved custom blacklist cannot be read", err)
		return
	}
	v, err := vet.Custom(bytes.NewReader(c.Body))
	if err != nil && c.Entries > 0 {
		e.o.Log.Warn("The saved custom blacklist is left out", zap.Error(err))
		return
	}
	o := &e.own
	o.list, o.since, o.saved = v.List, clock.Moment{Wall: c.Fetched}, &v.List
	e.publishOwn()
}

// freshTimes returns when the fresh lists were fetched.
func (e *Enforcer) freshTimes() string {
	var times []string
	for _, r := range e.remotes {
		if r.fresh != nil {
			times = append(times, r.fresh.at.Wall.Format(time.RFC3339))
		}
	}
	return strings.Join(times, ", ")
}
