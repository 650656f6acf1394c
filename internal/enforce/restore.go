package enforce

import (
	"cmp"
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/panics"
	"github.com/sikkerapi/sikkerguard/internal/vet"
)

// errNotPulled is the failure of a feed until its first pull has ended.
var errNotPulled = errors.New("the first pull since the start has not ended yet")

// savedReads has the readings of the saved files. They run at the same time, so that a disk that
// hangs delays a start only once. The lists are also parsed meanwhile.
type savedReads struct {
	names   func() ([]byte, error)
	own     func() (savedList, error) // nil without an operator's file
	lists   []func() (savedList, error)
	refused []func() (refusedList, error)
}

// savedList is a saved list and its entries.
type savedList struct {
	feed.Copy

	entries blocklist.Blocklist
}

// refusedList is the list that the last run set aside, and its entries.
type refusedList struct {
	feed.Refused

	entries blocklist.Blocklist
}

// errOtherList means that the saved list is from another API or score.
var errOtherList = errors.New("the saved list is from another API or score")

// savedListError is the error of a saved list that was read and cannot be used.
type savedListError struct{ error }

func (e savedListError) Unwrap() error { return e.error }

// readSaved begins the readings of all saved files.
func (e *Enforcer) readSaved() savedReads {
	s := savedReads{names: readDisk("reading of the addresses of names", e.o.StateDir.Names)}
	for _, r := range e.remotes {
		s.lists = append(s.lists, readDisk("reading of the saved list", r.loadSaved))
		s.refused = append(s.refused, readDisk("reading of the refused list", r.loadRefused))
	}
	if own := e.o.Own; own != nil {
		s.own = readDisk("reading of the saved custom blacklist", own.loadSaved)
	}
	return s
}

// inBackground calls f in a goroutine. The function that it returns waits for the results of f. A
// panic of f is an error.
func inBackground[T any](f func() (T, error)) (wait func() (T, error)) {
	var (
		v     T
		err   error
		doneC = make(chan struct{})
	)
	go func() {
		defer close(doneC)
		err = panics.Contain(func() (err error) {
			v, err = f()
			return err
		})
	}()
	return func() (T, error) {
		<-doneC
		return v, err
	}
}

// loadSaved reads the saved list of r.
func (r *remote) loadSaved() (savedList, error) {
	var (
		entries blocklist.Blocklist
		unused  error
	)
	c, err := r.saved.Load(func(c feed.Copy, body io.Reader) {
		if id := r.feed.Identity(); c.Request != id.Request && c.Source != id.Source {
			unused = errOtherList
			return
		}
		// The guards accepted this list once. Only a body that is not a list is refused now.
		v, err := vetted(body, vet.Options{Overrule: true})
		if err != nil {
			unused = savedListError{err}
		}
		entries = v.List
	})
	if err = cmp.Or(err, unused); err != nil { // err may be the reason for unused
		return savedList{}, err
	}
	return savedList{c, entries}, nil
}

// loadRefused reads the list of r that the last run set aside.
func (r *remote) loadRefused() (refusedList, error) {
	var (
		entries blocklist.Blocklist
		unused  error
	)
	c, err := r.saved.Refused(func(_ feed.Copy, body io.Reader) {
		var v vet.Verdict
		v, unused = vetted(body, vet.Options{Overrule: true})
		entries = v.List
	})
	if err = cmp.Or(err, unused); err != nil {
		return refusedList{}, err
	}
	return refusedList{c, entries}, nil
}

// loadSaved reads the operator's list of the last run. If the file is another one, the error is
// feed.ErrNoCopy.
func (o *Own) loadSaved() (savedList, error) {
	var (
		entries blocklist.Blocklist
		unused  error
	)
	c, err := o.Saved.Load(func(c feed.Copy, body io.Reader) {
		if c.Request != o.File.Identity().Request {
			unused = feed.ErrNoCopy
			return
		}
		v, err := vet.Custom(body)
		if err != nil && c.Entries > 0 {
			unused = savedListError{err}
		}
		entries = v.List
	})
	if err = cmp.Or(err, unused); err != nil {
		return savedList{}, err
	}
	return savedList{c, entries}, nil
}

// restore activates the saved lists and the operator's file before the network is tried: a reboot
// without the API loses nothing. It waits for the state directory, and for the first survey of the
// kernel and the files. It does not wait for names to resolve, for probes or for a pull.
func (e *Enforcer) restore(ctx context.Context, saved savedReads) {
	readC := e.own.reader.ask()
	mostC := e.own.reader.patience()
	e.beginBaseline(ctx)
	recalled := e.restoreNames(saved.names)
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
	if !restored && e.o.Own == nil || !e.surveys.awaitFirst(ctx) {
		return
	}
	if recalled {
		e.surveys.surveyKnown(ctx)
	}
	if awaitOwn(ctx, readC, mostC); ctx.Err() != nil {
		return
	}
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
func (e *Enforcer) restoreList(r *remote, read func() (savedList, error)) bool {
	c, err := read()
	var damaged *feed.DamagedError
	switch {
	case err == nil:
	case errors.Is(err, feed.ErrNoCopy):
		return false
	case errors.As(err, &damaged):
		e.o.Log.Warn("The saved list is damaged and was set aside", zap.Error(err), zap.String("aside", damaged.Aside))
		return false
	case errors.Is(err, errOtherList):
		e.o.Log.Info("The saved list is from another API or score and is not used")
		return false
	case isSavedListError(err):
		e.o.Log.Warn("The saved list is not used", zap.Error(err))
		return false
	default:
		e.logDiskFailure("The saved list cannot be read", err)
		return false
	}
	if c.Request == r.feed.Identity().Request {
		r.baseline = c.entries.Len()
	} else { // it protected the same host; the lists of the new key may have other sizes
		e.o.Log.Info("The saved list was pulled with another key; " +
			"the first list of this key replaces it, whatever its size")
	}
	r.fresh = &accepted{entries: c.entries, at: clock.Moment{Wall: c.Fetched}, saved: true}
	return true
}

func isSavedListError(err error) bool {
	_, ok := errors.AsType[savedListError](err)
	return ok
}

// restoreOwn loads the operator's list of the last run. The file itself is read meanwhile.
func (e *Enforcer) restoreOwn(read func() (savedList, error)) {
	c, err := read()
	switch {
	case errors.Is(err, feed.ErrNoCopy):
		return
	case isSavedListError(err):
		e.o.Log.Warn("The saved custom blacklist is left out", zap.Error(err))
		return
	case err != nil:
		e.logDiskFailure("The saved custom blacklist cannot be read", err)
		return
	}
	o := &e.own
	o.list, o.since, o.saved = c.entries, clock.Moment{Wall: c.Fetched}, &c.entries
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
